"""The report's parts on prompts, students, exports, and time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launch.report_blocks import (
    Block,
    Bullets,
    Cell,
    Fact,
    Paragraph,
    Piece,
    Prompt,
    Section,
    Table,
)
from launch.report_data import Json, RunFiles
from train.progress import duration

MOST_EXAMPLES = 8
MOST_CHOICES = 10


def examples_section(files: RunFiles) -> Section:
    """Prompts of the evaluation with what the model answered."""
    section = Section("Prompts and scores")
    if not files.examples:
        section.blocks.append(Paragraph("The evaluation left no examples.", tone="quiet"))
        return section
    section.blocks.append(
        Paragraph("What the model saw, word for word, and the probability it gave to each answer.")
    )
    section.blocks.extend([_prompt(example) for example in files.examples[:MOST_EXAMPLES]])
    return section


def _prompt(example: Json) -> Prompt:
    answer = str(example.get("answer", ""))
    pieces = [Piece(str(example.get("prompt", "")), "trunk"), Piece(f" {answer}", "label")]
    choices, shares = example.get("choices", ()), example.get("probabilities", ())
    ordered = sorted(zip(choices, shares, strict=False), key=lambda pair: -pair[1])
    scores = ", ".join(f"{choice} {share:.3f}" for choice, share in ordered[:MOST_CHOICES])
    if "rank" in example:
        scores = f"the right item stands at rank {example['rank']:g} of the catalog"
    note = f"Right: **{answer.strip()}**. Model: {scores or 'no scores'}."
    return Prompt(str(example.get("task", "a task")), pieces, note)


def models_section(files: RunFiles) -> Section:
    """The students and the exports with their proofs."""
    section = Section("Small models and exports")
    if not files.students and not files.exports:
        section.blocks.append(Paragraph("No student was distilled, nothing exported.", "quiet"))
    for name, metrics in files.students.items():
        section.blocks.append(_flat_table(f"Student `{name}`", metrics))
    section.blocks.extend(_export_blocks(files))
    return section


def _export_blocks(files: RunFiles) -> Iterator[Block]:
    if not files.exports:
        return
    rows: list[list[str | Cell]] = []
    for name, proof in files.exports.items():
        passed = proof.get("passed", proof.get("ok"))
        verdict = (
            Cell("?", "quiet")
            if passed is None
            else Cell("proven" if passed else "FAILED", "good" if passed else "bad")
        )
        details = "; ".join(f"{key} {value}" for key, value in flat(proof) if _is_small(value))
        rows.append([f"`{name}`", verdict, details])
    yield Paragraph(
        "Each export was loaded again in a fresh process by stock libraries and compared with the "
        "trainer's own scores."
    )
    yield Table(("export", "verdict", "what was compared"), rows, numbers_from=99)


def export_facts(files: RunFiles) -> list[Fact]:
    """How many exports are proven."""
    if not files.exports:
        return []
    passed = [proof.get("passed", proof.get("ok")) for proof in files.exports.values()]
    good = sum(verdict is True for verdict in passed)
    return [
        Fact(
            "Exports proven",
            f"{good} of {len(passed)}",
            "reloaded and compared",
            "good" if good == len(passed) else "bad",
        )
    ]


def _is_small(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40)


def flat(content: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested objects as dotted keys; lists are left out."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def _flat_table(caption: str, content: Json) -> Table:
    rows = [
        [key, f"{value:.4f}" if isinstance(value, float) else str(value)]
        for key, value in flat(content)
    ]
    return Table(("what", "value"), rows, caption)


def timings_section(files: RunFiles) -> Section:
    """Seconds and peak memory of each stage."""
    section = Section("Time and memory")
    if not files.timings:
        section.blocks.append(
            Paragraph("Only the quickstart measures its stages; this run has no timings.", "quiet")
        )
        return section
    rows: list[list[str | Cell]] = [
        [
            name,
            duration(float(timing.get("seconds", 0.0))),
            f"{float(timing.get('peak_mb', 0.0)):,.0f}",
            "skipped, done before" if timing.get("skipped") else "",
        ]
        for name, timing in files.timings.items()
    ]
    total = sum(float(timing.get("seconds", 0.0)) for timing in files.timings.values())
    rows.append(["**all**", f"**{duration(total)}**", "", ""])
    caption = "Peak: resident memory summed over the stage's processes; shared pages count in each."
    section.blocks.append(Table(("stage", "time", "peak MB", "this time"), rows, caption))
    return section


def next_section(files: RunFiles) -> Section:
    """What to type next, given what is there."""
    run = files.folder
    lines = []
    if not files.results:
        lines.append(f"`brewhouse eval {run}` measures it against baselines.")
    if not files.students:
        lines.append(f"`brewhouse distill {run} --student sasrec` makes a small model of it.")
    lines += [
        f"`brewhouse export check {run / name}` proves an export again." for name in files.exports
    ]
    if not files.exports:
        lines.append(f"`brewhouse export {run} --to merged` writes a folder that others can load.")
    lines += [
        f"`brewhouse train {run}/config.yaml resume_from_checkpoint=true max_steps=...` goes on "
        "with the training.",
        "`brewhouse data import mapping.yaml --out data/mine` brings your own logs.",
    ]
    return Section("What next", [Bullets(lines)])


def origin_section(files: RunFiles) -> Section:
    """What made the run, and what this page could not find."""
    made_by = files.config.get("provenance") or {}
    lines = [f"{key}: `{value}`" for key, value in flat(made_by) if value is not None]
    blocks: list[Block] = []
    if lines:
        blocks.append(Bullets(lines))
    if files.notes:
        blocks += [Paragraph("Missing or left out:"), Bullets(list(files.notes))]
    return Section("How this run was made", blocks or [Paragraph("Nothing is known.", "quiet")])
