"""The report's parts on prompts, students, exports, and time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    Tone,
)
from launch.report_data import Json, RunFiles
from launch.report_results import DASH, show
from train.progress import duration

MOST_EXAMPLES = 12
MOST_UNFOLDED = 4
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
    section.blocks.extend(
        [
            _prompt(example, unfolded=number < MOST_UNFOLDED)
            for number, example in enumerate(files.examples[:MOST_EXAMPLES])
        ]
    )
    return section


def _prompt(example: Json, *, unfolded: bool) -> Prompt:
    answer = str(example.get("answer", ""))
    pieces = [Piece(str(example.get("prompt", "")), "trunk"), Piece(f" {answer}", "label")]
    choices, shares = example.get("choices", ()), example.get("probabilities", ())
    ordered = sorted(zip(choices, shares, strict=False), key=lambda pair: -pair[1])
    scores = ", ".join(f"{choice} {share:.3f}" for choice, share in ordered[:MOST_CHOICES])
    if "rank" in example:
        scores = f"the right item stands at rank {example['rank']:g} of the catalog"
    if "said" in example:
        scores = f"it writes “{example['said']}”"
    note = f"Right: **{answer.strip()}**. Model: {scores or 'no scores'}."
    return Prompt(str(example.get("task", "a task")), pieces, note, unfolded)


def models_section(files: RunFiles) -> Section:
    """The students and the exports with their proofs."""
    section = Section("Small models and exports")
    if not files.students and not files.exports:
        section.blocks.append(Paragraph("No student was distilled, nothing exported.", "quiet"))
    for name, metrics in files.students.items():
        section.blocks.extend(_student_blocks(name, metrics))
    if files.exports:
        section.blocks.extend(_export_blocks(files.exports))
    return section


def _student_blocks(name: str, card: Json) -> Iterator[Block]:
    """The same student with and without its teacher, on each phase."""
    teacher = (card.get("teacher") or {}).get("name", "its teacher")
    helps = card.get("teacher_helps")
    yield Paragraph(
        f"Student `{name}`, distilled from `{teacher}` by {card.get('objective', '?')}: "
        f"{card.get('verdict', 'no verdict')}.",
        "good" if helps else "",
    )
    rows = []
    for phase in ("validation", "test"):
        numbers = card.get(phase)
        if not isinstance(numbers, dict):
            continue
        gap = numbers.get("difference_ndcg@10") or {}
        alone, taught = numbers.get("without_teacher", {}), numbers.get("with_teacher", {})
        cells = [
            show(side.get(metric)) for metric in ("ndcg@10", "hr@10") for side in (alone, taught)
        ]
        interval = f"{show(gap.get('value'))} ({show(gap.get('low'))} to {show(gap.get('high'))})"
        rows.append([phase, f"{numbers.get('n', 0):,}", *cells, interval])
    columns = (
        "phase", "targets", "ndcg@10 alone", "ndcg@10 taught", "hr@10 alone", "hr@10 taught",
        "difference of ndcg@10",
    )  # fmt: skip
    if rows:
        yield Table(columns, rows, f"Ranking: {card.get('ranking', 'not said')}.")


def _export_blocks(exports: Mapping[str, Json]) -> Iterator[Block]:
    yield Paragraph(
        "Each export was loaded again in a fresh process by stock libraries, and its scores were "
        "compared with the trainer's own."
    )
    rows: list[list[str | Cell]] = []
    for name, proof in exports.items():
        verdict = Cell("proven", "good") if proof.get("passed") is True else Cell("FAILED", "bad")
        probes = proof.get("probes")
        gaps = (proof.get("max_logit_difference"), proof.get("max_probability_difference"))
        versions = (f"{key} {value}" for key, value in (proof.get("versions") or {}).items())
        rows.append(
            [
                f"`{name}`",
                verdict,
                ", ".join(versions),
                *(DASH if gap is None else f"{gap:.1e}" for gap in gaps),
                f"{proof.get('top_k_identical', DASH)} of {probes}",
                f"{len(proof.get('files') or ()):,}",
            ]
        )
    columns = (
        "export", "verdict", "loaded by", "largest logit difference", "of a probability",
        "same best ten", "files hashed",
    )  # fmt: skip
    yield Table(columns, rows, numbers_from=3)


def export_facts(files: RunFiles) -> list[Fact]:
    """How many exports are proven."""
    if not files.exports:
        return []
    good = sum(proof.get("passed") is True for proof in files.exports.values())
    total = len(files.exports)
    tone: Tone = "good" if good == total else "bad"
    return [Fact("Exports proven", f"{good} of {total}", "reloaded and compared", tone)]


def flat(content: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested objects as dotted keys; lists are left out."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


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
