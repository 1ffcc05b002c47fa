"""A curve whose points are runs: `brewhouse eval RUN RUN RUN --over tokens`.

Nothing is scored: results and predictions of each run are read, as in a comparison of two, and
stand in the order of what the runs differ in: their size, or how much they learned from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.files import fingerprint
from data_pipeline.fraction import training_events
from data_pipeline.store import open_stores
from train.checkpoint import STATE, TrainerState, read_state
from train.evaluation.against import RESULTS, Recorded, compare, read_recorded
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.models import weights_hash
from train.evaluation.prediction_file import Key
from train.evaluation.results import FOLDER, CurveCard, Range, Results, Row
from train.evaluation.run import find_config

_UNITS = (("B", 1e9), ("M", 1e6), ("k", 1e3))


@dataclass(frozen=True, slots=True)
class _Axis:
    """What runs can differ in."""

    x_label: str
    measure: Callable[[Path, Recorded], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    """A run on the curve."""

    x: float
    run: Path
    recorded: Recorded

    @property
    def rows(self) -> dict[Key, Row]:
        """Its rows by corpus and task."""
        return {(row.corpus, row.task): row for row in self.recorded.results.rows}

    @property
    def name(self) -> str:
        """Its value of x in few letters, and the run."""
        size = next(((unit, n) for unit, n in _UNITS if self.x >= n), ("", 1.0))
        value = f"{self.x / size[1]:.1f}{size[0]}" if size[0] else f"{self.x:g}"
        return f"{value} {self.run.resolve().name}"


def curve_over(runs: Sequence[Path], over: str, *, results_name: str = RESULTS) -> Results:
    """Put finished evaluations on a curve, each run a point.

    Args:
        runs: folders of runs, two or more, each with an evaluation.
        over: what they differ in, a name of `AXES`.
        results_name: which of their evaluations.

    Returns:
        A result with a row per corpus, task and run, written as one of the run named last.
        Differences are paired over users and positive where a run is better than the first, or
        the one before it, by x.

    Raises:
        ValueError: no such axis; fewer than two runs; an evaluation, checkpoint or config is
            missing; the runs were asked about other corpora, splits or targets, or do not differ.
    """
    axis = _find_axis(over)
    if len(runs) < 2:
        raise ValueError(f"a curve over {over} needs two runs or more")
    found = [read_recorded(run / FOLDER / results_name) for run in runs]
    _refuse_other_corpora(found)
    points = [
        _Point(x=float(axis.measure(run, recorded)), run=run, recorded=recorded)
        for run, recorded in zip(runs, found, strict=True)
    ]
    last = points[-1].recorded.results
    points.sort(key=lambda point: point.x)
    _refuse_equal(points, over)
    rows, left_out = _rows(points, last)
    card = CurveCard(
        name=over,
        x_label=axis.x_label,
        scale="log",
        same_targets=True,
        x_names={f"{point.x:g}": point.name for point in points},
        left_out=left_out,
    )
    return replace(
        last,
        model=", ".join(point.recorded.results.model for point in points),
        model_hash=fingerprint([point.recorded.results.model_hash for point in points]),
        parameters=None,
        predictions=None,
        seconds={},
        targets_per_second=0.0,
        rows=rows,
        curve=card,
    )


def _rows(points: Sequence[_Point], last: Results) -> tuple[list[Row], dict[str, str]]:
    """Rows of the tasks that all runs were asked, by task and then by x; why others have none."""
    drawn = {key: last.bootstrap[key] for key in ("resamples", "level", "seed")}
    config = BootstrapConfig(**drawn)
    to_first = [_differences(point, points[0], config) for point in points[1:]]
    to_previous = [_differences(after, before, config) for before, after in pairwise(points)]
    by_point = [point.rows for point in points]
    keys = dict.fromkeys(key for rows in by_point for key in rows)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for key in keys:
        asked = sum(key in part for part in by_point)
        if asked < len(points):
            left_out["/".join(key)] = f"asked of {asked} of {len(points)} runs"
            continue
        for place, point in enumerate(points):
            row = replace(by_point[place][key], x=point.x, slices=[])
            if place:
                row = replace(
                    row,
                    difference_to_first=to_first[place - 1][key],
                    difference_to_previous=to_previous[place - 1][key],
                )
            rows.append(row)
    if not rows:
        raise ValueError(f"no task was asked of all {len(points)} runs")
    return rows, left_out


def _differences(ours: _Point, theirs: _Point, config: BootstrapConfig) -> dict[Key, Range]:
    """How much better one run is than another, task by task; refuses other targets."""
    comparison = compare(ours.recorded, theirs.recorded, config)
    return {(row.corpus, row.task): row.difference for row in comparison.rows}


def _refuse_other_corpora(found: Sequence[Recorded]) -> None:
    names = [sorted(corpus.name for corpus in one.results.corpora) for one in found]
    for one, own in zip(found, names, strict=True):
        if own != names[0]:
            raise ValueError(
                f"{found[0].file} is of the corpora {', '.join(names[0])} and {one.file} of "
                f"{', '.join(own)}: evaluate both on the same, with --store"
            )


def _refuse_equal(points: Sequence[_Point], over: str) -> None:
    for one, two in pairwise(points):
        if f"{one.x:g}" == f"{two.x:g}":
            raise ValueError(
                f"{one.run} and {two.run} have the same {over} ({one.x:,.0f}): a curve over them "
                "needs runs that differ; `--against` compares two that do not"
            )


# --- what runs differ in -------------------------------------------------------------------------


def _parameters(_: Path, recorded: Recorded) -> int:
    """Weights of the model, an adapter's included."""
    if recorded.results.parameters is None:
        raise ValueError(
            f"{recorded.file} does not say how many parameters its model has: run `brewhouse eval` "
            "again"
        )
    return recorded.results.parameters


def _state(run: Path, recorded: Recorded) -> TrainerState:
    """Where the run stood when it wrote the checkpoint that was evaluated."""
    checkpoint = run / Path(recorded.results.model).name
    if not (checkpoint / STATE).is_file():
        raise ValueError(
            f"{recorded.file} is of {recorded.results.model}, and {run} has no such checkpoint to "
            "say what it had learned from: run `brewhouse eval` again"
        )
    if weights_hash(checkpoint / "model") != recorded.results.model_hash:
        raise ValueError(
            f"{checkpoint} has other weights than {recorded.file} was measured with: run "
            "`brewhouse eval` again"
        )
    return read_state(checkpoint)


def _users(run: Path, _: Recorded) -> int:
    """Users with training events that the run's mixture learns from, of all its corpora."""
    config = find_config(run)
    if config is None:
        raise ValueError(f"{run} has no config.yaml, which would say whom it learned from")
    fraction = config.mixture.user_fraction
    return sum(
        int(np.count_nonzero(training_events(store, fraction, config.seed)))
        for store in open_stores(config.stores)
    )


AXES: dict[str, _Axis] = {
    "parameters": _Axis("parameters of the model", _parameters),
    "targets": _Axis("targets trained on", lambda run, one: _state(run, one).targets),
    "tokens": _Axis("tokens trained on", lambda run, one: _state(run, one).tokens),
    "users": _Axis("users learned from", _users),
}


def _find_axis(name: str) -> _Axis:
    if name not in AXES:
        near = difflib.get_close_matches(name, AXES, n=3) or list(AXES)
        raise ValueError(f"runs cannot be compared over {name!r}; nearest: {', '.join(near)}")
    return AXES[name]
