"""Results, curves and comparisons as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report_results import DASH, show
from train.evaluation.against import Comparison
from train.evaluation.results import Range, Results, Row

COLUMNS = (
    "task", "metric", "n", "model", "95% interval", "untrained", "trivial", "best", "best baseline",
)  # fmt: skip
CURVE_COLUMNS = (
    "task", "metric", "x", "n", "model", "95% interval", "gain", "best", "best baseline",
)  # fmt: skip
AGAINST_COLUMNS = ("task", "metric", "n", "A", "B", "A better by", "95% interval", "verdict")


def table_rows(results: Results) -> list[list[str]]:
    """A row per task under `COLUMNS`; a tick where the model is better beyond the interval."""
    return [
        [
            _task(row, results),
            _metric(row.metric, row.higher_is_better),
            f"{row.n:,}",
            show(row.value),
            f"{show(row.low)} to {show(row.high)}",
            f"{show(row.untrained_value)} {_tick(row.beats_untrained)}",
            f"{show(row.baselines.get(row.trivial or ''))} {_tick(row.beats_trivial)}",
            f"{show(row.baseline_value)} {_tick(row.beats_best)}",
            row.baseline or "",
        ]
        for row in results.rows
    ]


def curve_rows(results: Results) -> list[list[str]]:
    """A row per task and x under `CURVE_COLUMNS`; a gain is over the point before, in pairs."""
    return [
        [
            _task(row, results),
            _metric(row.metric, row.higher_is_better),
            x_text(results, row),
            f"{row.n:,}",
            show(row.value),
            f"{show(row.low)} to {show(row.high)}",
            _gain(row.difference_to_previous),
            f"{show(row.baseline_value)} {_tick(row.beats_best)}",
            row.baseline or "",
        ]
        for row in results.rows
    ]


def _gain(gain: Range | None) -> str:
    if gain is None or gain.value is None:
        return DASH
    return f"{gain.value:+.4f} {_tick(gain.above_zero)}"


def x_text(results: Results, row: Row) -> str:
    """The value of x of a point, or its name."""
    assert results.curve is not None, "rows of a curve have an x"
    plain = f"{row.x:g}"
    return results.curve.x_names.get(plain, plain)


def against_rows(comparison: Comparison) -> list[list[str]]:
    """A row per task under `AGAINST_COLUMNS`."""
    several = len({row.corpus for row in comparison.rows}) > 1
    return [
        [
            f"{row.corpus}/{row.task}" if several else row.task,
            _metric(row.metric, row.higher_is_better),
            f"{row.n:,}",
            show(row.value),
            show(row.other_value),
            show(row.difference.value),
            f"{show(row.difference.low)} to {show(row.difference.high)}",
            row.verdict,
        ]
        for row in comparison.rows
    ]


def against_lines(comparison: Comparison) -> list[str]:
    """What was compared, in words."""
    counts = {
        verdict: sum(row.verdict == verdict for row in comparison.rows)
        for verdict in ("better", "worse", "no difference")
    }
    lines = [
        f"A = {comparison.model} ({comparison.phrasing} phrasing), "
        f"B = {comparison.other_model} ({comparison.other_phrasing} phrasing), "
        f"{comparison.phase} phase, split {comparison.split_hash}.",
        f"On {len(comparison.rows)} tasks A is better beyond the interval on {counts['better']}, "
        f"worse on {counts['worse']}, not told apart on {counts['no difference']}.",
    ]
    for which, tasks in (("A", comparison.only_here), ("B", comparison.only_there)):
        if tasks:
            lines.append(f"Asked of {which} alone: {', '.join(tasks)}.")
    return lines


def curve_lines(results: Results) -> list[str]:
    """What a curve left out, and its slopes."""
    assert results.curve is not None, "a curve"
    lines = ["✓ beyond the paired 95% interval; a gain is over the point before."]
    lines += [f"Not measured at {x}: {reason}." for x, reason in results.curve.left_out.items()]
    for corpus in results.corpora:
        lines += [
            f"{corpus.name}/{task}: {show(s.value)} ({show(s.low)} to {show(s.high)}) per unit of x"
            for task, s in corpus.curve_slopes.items()
        ]
    return lines


def _task(row: Row, results: Results) -> str:
    return f"{row.corpus}/{row.task}" if len(results.corpora) > 1 else row.task


def _metric(name: str, higher_is_better: bool) -> str:
    return name if higher_is_better else f"{name} (less is better)"


def _tick(beaten: bool | None) -> str:
    return "" if beaten is None else ("✓" if beaten else "✗")


def shown(columns: Sequence[str]) -> tuple[str, ...]:
    """Columns of numbers, which are aligned to the right."""
    numbers = {"n", "x", "model", "gain", "untrained", "trivial", "best", "A", "B", "A better by"}
    return tuple(column for column in columns if column in numbers)
