"""User-level bootstrap: intervals of a metric, and of the difference of two scorers.

Targets of one user are not independent, so users are drawn, not targets (facts of the evaluation:
a percentile interval over users, with multiplicity). Both scorers of a difference see the same
draws, which removes what the targets have in common.

Shapes: N targets, G groups (users; items where a task has no user), R resamples.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from train.evaluation.metrics import Metric
from train.evaluation.scores import Floats, Ints, TargetScores

_CHUNK_FLOATS = 8_000_000  # weights held at once: 64 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapConfig:
    """How intervals are drawn."""

    resamples: int = 1000
    """number of resamples of the users"""
    level: float = 0.95
    """coverage of the percentile interval"""
    seed: int = 0
    """seed of the Philox stream; each task has its own stream"""

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0.0 < self.level < 1.0:
            raise ValueError(
                f"bootstrap with resamples={self.resamples}, level={self.level}: "
                "resamples must be at least 1 and level between 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class Resampled:
    """A metric of one scorer: on all targets, and on every resample of the users."""

    metric: Metric
    value: float
    values_R: Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile interval; NaN where the metric is undefined."""

    value: float
    low: float
    high: float


class Bootstrap:
    """The same R resamples of a task's users, for every scorer and metric of that task."""

    def __init__(self, groups_N: Ints, config: BootstrapConfig, *, stream: str) -> None:
        """Draw the resamples; `stream` (the task's name) picks an independent random stream."""
        _, self._group_of_N = np.unique(groups_N, return_inverse=True)
        self.config = config
        self.n_groups = int(self._group_of_N.max(initial=-1)) + 1
        key = np.array([config.seed, zlib.crc32(stream.encode())], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        share = np.full(self.n_groups, 1.0 / max(self.n_groups, 1))
        self._draws_RG = rng.multinomial(self.n_groups, share, size=config.resamples)

    def resample(
        self, metric: Metric, scores: TargetScores, rows: slice = slice(None)
    ) -> Resampled:
        """The metric of every resample; NaN where a resample leaves it undefined.

        Args:
            metric: what to compute.
            scores: answers to the targets whose groups this bootstrap was made of.
            rows: which of these targets, where `scores` holds a part of them.
        """
        group_of_N = self._group_of_N[rows]
        assert len(scores) == len(group_of_N), "scores of other targets"
        step = max(1, _CHUNK_FLOATS // max(1, len(scores)))
        parts = [
            metric.weighted(scores, draws_RG[:, group_of_N].astype(np.float64))
            for draws_RG in np.array_split(
                self._draws_RG, range(step, len(self._draws_RG), step), axis=0
            )
        ]
        return Resampled(metric, metric(scores), np.concatenate(parts))

    def interval(self, ours: Resampled) -> Interval:
        """The metric with its percentile interval."""
        return interval_of(ours.value, ours.values_R, self.config.level)

    def difference(self, ours: Resampled, theirs: Resampled) -> Interval:
        """How much better `ours` is than `theirs`, paired; positive = better, whatever the metric.

        Both must come from this bootstrap, and from the same targets. `ours` beats `theirs` beyond
        the interval when `low` is above zero.
        """
        assert ours.metric.name == theirs.metric.name, "a difference of two metrics"
        sign = ours.metric.sign
        gap_R = sign * (ours.values_R - theirs.values_R)
        return interval_of(sign * (ours.value - theirs.value), gap_R, self.config.level)


def interval_of(value: float, values_R: Floats, level: float) -> Interval:
    """The percentile interval of resampled values around the value of all targets."""
    defined = values_R[~np.isnan(values_R)]
    if np.isnan(value) or not len(defined):
        return Interval(value, float("nan"), float("nan"))
    tail = 0.5 * (1.0 - level)
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))
