"""What a metric is: a function over `TargetScores` and target weights, with a name and a direction.

The weights are what makes a bootstrap quick and exact: a resample that draws a user three times
gives the user's targets weight 3, so every metric is computed for R resamples at once and no target
is ever copied. Ties are never broken by position: AUC counts a tie as half, rank metrics take the
expectation over all orders of the tied candidates.

Shapes: N targets, K choices, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from train.evaluation.scores import Floats, TargetScores

Weighted = Callable[[TargetScores, Floats], Floats]
"""(scores, weights_RN) -> values_R; NaN where the metric is undefined for a resample"""
PerTarget = Callable[[TargetScores], Floats]
Level = Literal["pooled", "per_user", "per_impression"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: how it is called, which way is better, and how it is computed."""

    name: str
    higher_is_better: bool
    weighted: Weighted
    level: Level = "pooled"
    """`pooled`: one number of all targets together. `per_user`: a number of each user's targets,
    averaged over users by how many targets they have. `per_impression`: a number of each
    impression, each of which counts the same."""

    def __call__(self, scores: TargetScores) -> float:
        """The metric over all targets, each counted once."""
        return float(self.weighted(scores, np.ones((1, len(scores))))[0])

    @property
    def sign(self) -> float:
        """+1 where more is better, -1 where less is."""
        return 1.0 if self.higher_is_better else -1.0


def mean_of(per_target: PerTarget, finish: Callable[[Floats], Floats] | None = None) -> Weighted:
    """A metric that is the weighted mean of one number per target; NaN numbers are left out."""

    def weighted(scores: TargetScores, weights_RN: Floats) -> Floats:
        x_N = per_target(scores)
        counted_N = ~np.isnan(x_N)
        total_R = weights_RN @ counted_N.astype(np.float64)
        mean_R = ratio(weights_RN @ np.where(counted_N, x_N, 0.0), total_R)
        return finish(mean_R) if finish else mean_R

    return weighted


def ratio(numerator_R: Floats, denominator_R: Floats) -> Floats:
    """Numerator over denominator, NaN where the denominator is zero."""
    safe_R = np.where(denominator_R > 0, denominator_R, 1.0)
    return np.where(denominator_R > 0, numerator_R / safe_R, np.nan)


def masked(scores: TargetScores) -> Floats:
    """Probabilities with -1 in the padding, so that padding never wins or ties."""
    real_NK = np.arange(scores.probabilities_NK.shape[1]) < scores.n_choices_N[:, None]
    return np.where(real_NK, scores.probabilities_NK, -1.0)


def probability_of_label(scores: TargetScores) -> Floats:
    """Probability of the right choice, [N]."""
    right_N: Floats = np.take_along_axis(scores.probabilities_NK, scores.labels_N[:, None], 1)[:, 0]
    return right_N


def n_classes(scores: TargetScores) -> int:
    """Most choices that any target has."""
    return int(scores.probabilities_NK.shape[1])


def two_classes(scores: TargetScores, metric: str) -> tuple[Floats, Floats]:
    """(probability of the second class, 1 where it is right).

    Raises:
        ValueError: a target has other than two choices.
    """
    if (scores.n_choices_N != 2).any():
        sizes = sorted({int(n) for n in scores.n_choices_N})
        raise ValueError(
            f"{metric} needs targets with two choices, these have {sizes}: give the task another "
            "metric"
        )
    return scores.probabilities_NK[:, 1], (scores.labels_N == 1).astype(np.float64)
