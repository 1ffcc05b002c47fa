"""The parts of a report page, written once and rendered twice: as HTML and as Markdown."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with a colour that says how good its content is."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Prose. `code` and **strong** are marked as in Markdown."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of short lines, marked up like a paragraph."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names. Columns from `numbers_from` on are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    numbers_from: int = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """One plot, drawn for a light and for a dark page."""

    title: str
    light_svg: bytes
    dark_svg: bytes
    alt: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Plots side by side, as many in a row as fit."""

    pictures: Sequence[Picture]
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of prompt text with the role it plays."""

    text: str
    role: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model sees it, under a line that says what was asked and answered."""

    title: str
    pieces: Sequence[Piece]
    note: str = ""
    unfolded: bool = True


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure to see first: its name, value and a few words."""

    name: str
    value: str
    words: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """The figures to see first, as cards."""

    facts: Sequence[Fact]


Block = Paragraph | Bullets | Table | Pictures | Prompt | Facts


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the page."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def to_html(page: Page) -> str:
    """One HTML file that needs nothing else: styles and plots are inside."""
    style = files("launch").joinpath("templates/report.css").read_text(encoding="utf-8")
    links = "".join(
        f'<a href="#{_anchor(section.title)}">{html.escape(section.title)}</a>'
        for section in page.sections
    )
    body = "\n".join(
        f'<section id="{_anchor(section.title)}">\n<h2>{html.escape(section.title)}</h2>\n'
        + "\n".join(_html_block(block) for block in section.blocks)
        + "\n</section>"
        for section in page.sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(page.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{html.escape(page.title)}</h1><p>{_html_inline(page.subtitle)}</p></header>\n"
        f"<nav>{links}</nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def to_markdown(page: Page) -> str:
    """The same page as Markdown; plots are only named, their numbers stand in the tables."""
    lines = [f"# {page.title}", "", page.subtitle, ""]
    for section in page.sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_markdown_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _html_inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _class(tone: str) -> str:
    return f' class="{tone}"' if tone else ""


def _html_block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p{_class(block.tone)}>{_html_inline(block.text)}</p>"
        case Bullets():
            items = "".join(f"<li>{_html_inline(line)}</li>" for line in block.lines)
            return f"<ul>{items}</ul>"
        case Table():
            return _html_table(block)
        case Pictures():
            return _html_pictures(block)
        case Prompt():
            return _html_prompt(block)
        case Facts():
            cards = "".join(
                f"<div{_class(fact.tone)}><dt>{html.escape(fact.name)}</dt>"
                f"<dd><b>{html.escape(fact.value)}</b> {html.escape(fact.words)}</dd></div>"
                for fact in block.facts
            )
            return f'<dl class="facts">{cards}</dl>'


def _html_table(table: Table) -> str:
    def cells(row: Sequence[str | Cell], tag: str) -> str:
        parts = []
        for index, value in enumerate(row):
            cell = value if isinstance(value, Cell) else Cell(value)
            names = " ".join(
                name for name in (cell.tone, "num" if index >= table.numbers_from else "") if name
            )
            parts.append(f"<{tag}{_class(names)}>{_html_inline(cell.text)}</{tag}>")
        return "<tr>" + "".join(parts) + "</tr>"

    # Outside of the table, so that it wraps where the table scrolls.
    caption = f'<p class="quiet caption">{_html_inline(table.caption)}</p>' if table.caption else ""
    rows = "\n".join(cells(row, "td") for row in table.rows)
    return (
        f'{caption}<div class="table"><table><thead>{cells(table.columns, "th")}</thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _html_pictures(block: Pictures) -> str:
    figures = "".join(
        f"<figure><figcaption>{html.escape(picture.title)}</figcaption><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_data_uri(picture.dark_svg)}">'
        f'<img src="{_data_uri(picture.light_svg)}" alt="{html.escape(picture.alt)}">'
        "</picture></figure>"
        for picture in block.pictures
    )
    caption = f'<p class="quiet">{_html_inline(block.caption)}</p>' if block.caption else ""
    kind = "pictures wide" if block.wide else "pictures"
    return f'<div class="{kind}">{figures}</div>{caption}'


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _html_prompt(block: Prompt) -> str:
    text = "".join(
        f'<span class="role-{html.escape(piece.role or "plain")}">{html.escape(piece.text)}</span>'
        for piece in block.pieces
    )
    note = f"<p>{_html_inline(block.note)}</p>" if block.note else ""
    return (
        f'<details class="prompt"{" open" if block.unfolded else ""}>'
        f"<summary>{_html_inline(block.title)}</summary>{note}<pre>{text}</pre></details>"
    )


def _markdown_block(block: Block) -> list[str]:
    match block:
        case Paragraph():
            return [block.text]
        case Bullets():
            return [f"- {line}" for line in block.lines]
        case Table():
            return _markdown_table(block)
        case Pictures():
            lines = [f"*Plots in report.html: {', '.join(p.title for p in block.pictures)}.*"]
            return [*lines, "", block.caption] if block.caption else lines
        case Prompt():
            text = "".join(piece.text for piece in block.pieces)
            fence = "`" * (max(map(len, re.findall(r"`{3,}", text)), default=2) + 1)
            note = [block.note, ""] if block.note else []
            return [f"**{block.title}**", "", *note, f"{fence}text", text, fence]
        case Facts():
            return [
                f"- {fact.name}: **{fact.value}**{' ' + fact.words if fact.words else ''}"
                for fact in block.facts
            ]


def _markdown_table(table: Table) -> list[str]:
    def line(row: Sequence[str | Cell]) -> str:
        texts = [cell.text if isinstance(cell, Cell) else cell for cell in row]
        return (
            "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
        )

    rule = ["---:" if index >= table.numbers_from else "---" for index in range(len(table.columns))]
    caption = [f"{table.caption}", ""] if table.caption else []
    return [*caption, line(table.columns), line(rule), *(line(row) for row in table.rows)]
