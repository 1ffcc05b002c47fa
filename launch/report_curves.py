"""The report's part on curves: what happens to the metrics as one thing grows."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report_blocks import Block, Cell, Paragraph, Pictures, Section, Table
from launch.report_data import RunFiles
from launch.report_plots import MetricCurve, curve_picture
from launch.report_results import DASH, show
from train.evaluation.results import CurveCard, Range, Results, Row

ENOUGH = 0.995
"""Share of the targets that reach x, from which on nobody has to be told."""


def curves_section(files: RunFiles) -> Section:
    """Each curve as a picture per task, and as a table."""
    section = Section("Curves")
    for results in files.curves.values():
        if results.curve is not None and results.rows:
            section.blocks.extend(_curve(results, results.curve))
    if not section.blocks:
        run = f"`brewhouse eval {files.folder} --curve shots`"
        section.blocks.append(Paragraph(f"No curve was measured: {run}.", tone="quiet"))
    return section


def _curve(results: Results, card: CurveCard) -> list[Block]:
    several = len(results.corpora) > 1
    tasks: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        tasks.setdefault((row.corpus, row.task), []).append(row)
    named = {
        f"{corpus}/{task}" if several else task: rows for (corpus, task), rows in tasks.items()
    }
    pictures = [curve_picture(_plotted(name, rows, card)) for name, rows in named.items()]
    same = "the same targets at every point" if card.same_targets else "other targets at each point"
    caption = (
        f"**{card.name}**: {card.x_label}; {same}. Line and band: the model with its 95% interval "
        "over users. Orange: the best baseline, which always knows the whole history."
    )
    blocks: list[Block] = [Pictures(pictures, caption), _table(named, card)]
    if card.same_targets:
        blocks.append(_gains(named, card))
    blocks += [
        Paragraph(f"Not measured at {x}: {reason}.", tone="quiet")
        for x, reason in card.left_out.items()
    ]
    for corpus in results.corpora:
        blocks += [
            Paragraph(
                f"{corpus.name}, {task}: {show(slope.value)} ({show(slope.low)} to "
                f"{show(slope.high)}) per unit of x."
            )
            for task, slope in corpus.curve_slopes.items()
        ]
    return blocks


def _plotted(name: str, rows: Sequence[Row], card: CurveCard) -> MetricCurve:
    return MetricCurve(
        title=name,
        metric=rows[0].metric,
        x_label=card.x_label,
        scale=card.scale,
        xs=[_number(row.x) for row in rows],
        names=[_x(row, card) for row in rows] if card.x_names else [],
        values=[_number(row.value) for row in rows],
        lows=[_number(row.low) for row in rows],
        highs=[_number(row.high) for row in rows],
        baselines=[_number(row.baseline_value) for row in rows],
    )


def _table(named: dict[str, list[Row]], card: CurveCard) -> Table:
    xs = sorted({_number(row.x) for rows in named.values() for row in rows})
    table: list[list[str | Cell]] = []
    for name, rows in named.items():
        found = {_number(row.x): row for row in rows}
        cells = [_cell(found[x]) if x in found else Cell(DASH, "quiet") for x in xs]
        metric = rows[0].metric + ("" if rows[0].higher_is_better else " ↓")
        table.append([f"{name}, {metric}", *cells])
    heads = [card.x_names.get(f"{x:g}", f"{x:g}") for x in xs]
    caption = "✓ better than the best baseline beyond the paired interval. ↓ less is better."
    return Table((card.x_label, *heads), table, caption)


def _gains(named: dict[str, list[Row]], card: CurveCard) -> Table:
    """How much each point is better than the one before it."""
    xs = sorted({_number(row.x) for rows in named.values() for row in rows})
    table: list[list[str | Cell]] = []
    for name, rows in named.items():
        gains = {_number(row.x): row.difference_to_previous for row in rows}
        cells = [_gain(gains.get(x)) for x in xs[1:]]
        table.append([f"{name}, {rows[0].metric}", *cells])
    heads = [card.x_names.get(f"{x:g}", f"{x:g}") for x in xs[1:]]
    caption = (
        "Gain over the point before, in pairs, with its 95% interval; positive is better, whatever "
        "the metric."
    )
    return Table((card.x_label, *heads), table, caption)


def _gain(gain: Range | None) -> Cell:
    if gain is None or gain.value is None or gain.low is None or gain.high is None:
        return Cell(DASH, "quiet")
    text = f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    return Cell(text, "good" if gain.above_zero else "")


def _cell(row: Row) -> Cell:
    """The value with its n, and how many of the targets have as much as x says."""
    tick = " ✓" if row.beats_best else ""
    reached = "" if row.reached is None or row.reached >= ENOUGH else f", {row.reached:.0%} have x"
    return Cell(f"{show(row.value)}{tick} (n {row.n:,}{reached})", "good" if tick else "")


def _x(row: Row, card: CurveCard) -> str:
    return card.x_names.get(f"{row.x:g}", f"{row.x:g}")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
