"""Metrics of questions with several right choices: those whose gain is above zero.

The answer is the set of the k most probable choices; without a k, as many as are right. Where
choices tie for the last places, the metrics take the expectation over all ways to break the tie.

Shapes: N targets, K choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from train.evaluation.metrics.base import PerTarget, masked
from train.evaluation.metrics.ranking import hit_rate
from train.evaluation.scores import Floats, TargetScores


def recall(k: int) -> PerTarget:
    """Share of the right choices among the first k; with one right answer, whether it is there."""
    among_choices = _over_ties(k, lambda hits, _, right: hits / right)

    def per_target(scores: TargetScores) -> Floats:
        return among_choices(scores) if scores.has_gains else hit_rate(k)(scores)

    return per_target


def set_f1(k: int | None) -> PerTarget:
    """2 |answer and right| / (|answer| + |right|)."""
    return _over_ties(k, lambda hits, answered, right: 2.0 * hits / (answered + right))


def jaccard(k: int | None) -> PerTarget:
    """|answer and right| / |answer or right|."""
    return _over_ties(k, lambda hits, answered, right: hits / (answered + right - hits))


def _over_ties(k: int | None, value: Callable[[int, int, int], float]) -> PerTarget:
    """Expectation of value(hits, answered, right); NaN for a target without a right choice.

    Raises:
        ValueError: the targets have no gains, so that nothing says which choices are right.
    """

    def per_target(scores: TargetScores) -> Floats:
        if len(scores) and not scores.has_gains:
            raise ValueError("a metric of sets needs gains, which say which choices are right")
        rows = zip(masked(scores), scores.gains_NK > 0.0, scores.n_choices_N, strict=True)
        return np.array([_expected(p_K[:n], right_K[:n], k, value) for p_K, right_K, n in rows])

    return per_target


def _expected(
    p_K: Floats, right_K: np.ndarray, k: int | None, value: Callable[[int, int, int], float]
) -> float:
    right = int(right_K.sum())
    if not right:
        return math.nan
    answered = min(k or right, len(p_K))
    last = np.sort(p_K)[::-1][answered - 1]
    sure_K, tied_K = p_K > last, p_K == last
    hits, places = int((sure_K & right_K).sum()), answered - int(sure_K.sum())
    tied, right_tied = int(tied_K.sum()), int((tied_K & right_K).sum())
    ways = math.comb(tied, places)
    # Of the tied choices, `places` are taken blindly: hypergeometric.
    return sum(
        math.comb(right_tied, more)
        * math.comb(tied - right_tied, places - more)
        / ways
        * value(hits + more, answered, right)
        for more in range(min(right_tied, places) + 1)
    )
