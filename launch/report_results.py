"""The report's part on results: what the model beats, and what it does not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from launch.report_blocks import Block, Cell, Fact, Paragraph, Pictures, Section, Table, Tone
from launch.report_data import RunFiles
from launch.report_plots import ForestRow, forest_picture
from train.evaluation.results import Results, Row, summary_lines
from train.evaluation.tiers import Won, tier_counts

DASH = "-"
UNBOUNDED = ("rmse", "mae", "logloss")
"""Metrics that do not live between 0 and 1, so that they get a picture of their own."""


def results_section(files: RunFiles) -> Section:
    """Verdict, a picture per family of tasks, a table, and the held-out phrasings."""
    section = Section("Results")
    if not files.results:
        section.blocks.append(Paragraph("This run was not evaluated.", tone="quiet"))
        return section
    main = main_results(files)
    section.blocks.extend(_verdict(main))
    section.blocks.append(_pictures(main.rows))
    section.blocks.extend(_tables(main))
    section.blocks.append(_tiers(main))
    section.blocks.extend(_slices(main.rows))
    for name, other in files.results.items():
        if other is not main:
            section.blocks.append(_comparison(name, main, other))
    section.blocks.append(_how(main))
    return section


def main_results(files: RunFiles) -> Results:
    """The evaluation to report: the test phase by trained phrasings, if there are several."""
    return max(
        files.results.values(), key=lambda r: (r.phrasing == "trained", r.phase.lower() == "test")
    )


def result_facts(files: RunFiles) -> list[Fact]:
    """How many tasks the model beats what on, for the top of the page."""
    if not files.results:
        return []
    rows = main_results(files).rows
    facts = []
    for key, opponent in (
        ("beats_untrained", "the untrained model"),
        ("beats_trivial", "the trivial baseline"),
        ("beats_best", "the best baseline"),
    ):
        judged = [verdict for row in rows if (verdict := getattr(row, key)) is not None]
        if judged:
            won = sum(judged)
            tone: Tone = "good" if 2 * won > len(judged) else "bad"
            facts.append(
                Fact(
                    f"Beats {opponent}",
                    f"{won} of {len(judged)}",
                    "tasks, beyond the 95% interval",
                    tone,
                )
            )
    return facts


def _verdict(results: Results) -> list[Block]:
    return [Paragraph(line) for line in summary_lines(results)]


def _pictures(rows: Sequence[Row]) -> Pictures:
    """One picture per corpus, family and scale: tasks that can stand on one axis."""
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for row in rows:
        if row.value is not None:
            groups.setdefault((row.corpus, row.family, _is_share(row)), []).append(row)
    several = len({row.corpus for row in rows}) > 1
    pictures = []
    for (corpus, family, _), members in groups.items():
        better = {row.higher_is_better for row in members}
        direction = "right is better" if better == {True} else "left is better"
        if len(better) > 1:
            direction = ""
        forest = [
            ForestRow(
                label=f"{row.task}\n{row.metric}",
                value=_number(row.value),
                low=_number(row.low),
                high=_number(row.high),
                baseline_value=_number(row.baselines.get(row.trivial or "")),
                untrained_value=_number(row.untrained_value),
                best_value=_number(row.baseline_value),
            )
            for row in members
        ]
        pictures.append(
            forest_picture(f"{corpus}: {family}" if several else family, direction, forest)
        )
    caption = (
        "Dot and bar: this run with its 95% interval over users. Orange bar: the trivial baseline. "
        "Orange diamond: the best baseline. Cross: the same model before training."
    )
    return Pictures(pictures, caption, wide=True)


def _is_share(row: Row) -> bool:
    return not any(name in row.metric for name in UNBOUNDED)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def show(value: float | None) -> str:
    """A metric with four digits; a dash where it is undefined."""
    return DASH if value is None else f"{value:.4f}"


def _tables(results: Results) -> list[Block]:
    """A table per corpus."""
    columns = (
        "task", "metric", "n", "model", "95% interval", "untrained", "trivial", "best baseline",
        "label mass",
    )  # fmt: skip
    caption = (
        "✓ the model is better beyond the paired 95% interval, ✗ it is not. ↓ less is better. "
        "n: targets."
    )
    by_corpus: dict[str, list[list[str | Cell]]] = {}
    for row in results.rows:
        metric = row.metric if row.higher_is_better else f"{row.metric} ↓"
        by_corpus.setdefault(row.corpus, []).append(
            [
                f"{row.code} {row.task}",
                metric,
                f"{row.n:,}",
                f"**{show(row.value)}**",
                f"{show(row.low)} to {show(row.high)}",
                _against(row.untrained_value, row.beats_untrained),
                _against(row.baselines.get(row.trivial or ""), row.beats_trivial, row.trivial),
                _against(row.baseline_value, row.beats_best, row.baseline),
                show(row.label_mass),
            ]
        )
    several = len(results.corpora) > 1
    return [
        Table(columns, rows, f"{corpus}. {caption}" if several else caption, numbers_from=2)
        for corpus, rows in by_corpus.items()
    ]


TIER_COLUMNS = (
    "corpus",
    "tier",
    "tasks",
    "beats untrained",
    "beats trivial",
    "beats best baseline",
)


def tier_rows(results: Results) -> list[list[str]]:
    """A row per corpus and tier under `TIER_COLUMNS`."""
    return [
        [
            *(one.corpus, f"{one.tier}: {one.words}", f"{one.tasks}"),
            *(_won(one.untrained), _won(one.trivial), _won(one.best)),
        ]
        for one in tier_counts(results)
    ]


def _won(count: Won) -> str:
    return f"{count.won} of {count.compared}" if count.compared else DASH


def _tiers(results: Results) -> Table:
    caption = (
        "Seen and unseen tasks: on how many the model is better beyond the paired 95% interval. No "
        "training asks a task of T2."
    )
    return Table(TIER_COLUMNS, tier_rows(results), caption, numbers_from=2)


def _against(value: float | None, beaten: bool | None, name: str | None = None) -> Cell:
    if value is None:
        return Cell(DASH, "quiet")
    text = f"{show(value)}{f' {name}' if name else ''}"
    if beaten is None:
        return Cell(text)
    return Cell(f"{text} {'✓' if beaten else '✗'}", "good" if beaten else "bad")


def _slices(rows: Sequence[Row]) -> list[Block]:
    """How the metric moves with what is known of the user."""
    found = {part.name for row in rows for part in row.slices}
    names = sorted(found, key=lambda name: int(re.match(r"\d*", name)[0] or 0))  # type: ignore[index]
    if not names:
        return []
    several = len({row.corpus for row in rows}) > 1
    table = []
    for row in rows:
        parts = {part.name: part for part in row.slices}
        if parts:
            cells = [
                f"{show(parts[name].value)} (n {parts[name].n:,})" if name in parts else DASH
                for name in names
            ]
            name = f"{row.corpus}/{row.task}" if several else row.task
            table.append([f"{name}, {row.metric}", *cells])
    return [Table(("events known of the user", *names), table, "Cold and warm users.")]


def _comparison(name: str, main: Results, other: Results) -> Table:
    """Another evaluation beside the main one, on the tasks that both have."""
    values = {(row.corpus, row.task, row.metric): row for row in main.rows}
    rows = []
    for row in other.rows:
        base = values.get((row.corpus, row.task, row.metric))
        if base is not None:
            interval = f"{show(row.low)} to {show(row.high)}"
            rows.append([row.task, row.metric, show(base.value), show(row.value), interval])
    caption = f"Evaluation `{name}`: {other.phase}, {other.phrasing} phrasings, {other.model}."
    columns = ("task", "metric", main.phrasing, other.phrasing, "95% interval")
    return Table(columns, rows, caption, numbers_from=2)


def _how(results: Results) -> Paragraph:
    bootstrap = ", ".join(f"{key} {value}" for key, value in results.bootstrap.items())
    decoding = ", ".join(f"{key}: {value}" for key, value in results.decoding.items())
    return Paragraph(
        f"How: phase {results.phase}, {results.phrasing} phrasings; {decoding}; split "
        f"`{results.split_hash}`; seed {results.seed}; bootstrap {bootstrap}; weights "
        f"`{results.model_hash[:16]}`.",
        tone="quiet",
    )
