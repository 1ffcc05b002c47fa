"""Metrics of the place that the right answer gets: among choices, or in the whole catalog.

Shapes: N targets, K choices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.evaluation.metrics.base import (
    PerTarget,
    masked,
    probability_of_label,
    two_classes,
)
from train.evaluation.scores import Floats, Ints, TargetScores


def places(scores: TargetScores) -> tuple[Ints, Ints]:
    """(better_N, tied_N) of the right answer: among the choices, or among the catalog."""
    if (scores.n_choices_N == 0).all():
        return scores.better_N, scores.tied_N
    p_NK, right_N = masked(scores), probability_of_label(scores)
    return (p_NK > right_N[:, None]).sum(1), (p_NK == right_N[:, None]).sum(1) - 1


def reciprocal_rank(scores: TargetScores) -> Floats:
    """Expected 1/rank of the right choice or item over all orders of its ties."""
    better_N, tied_N = places(scores)
    return _mean_over_ties(better_N, tied_N, lambda rank: 1.0 / rank)


def hit_rate(k: int) -> PerTarget:
    """Probability that the right choice or item stands among the first k."""

    def per_target(scores: TargetScores) -> Floats:
        better_N, tied_N = places(scores)
        return np.clip((k - better_N) / (tied_N + 1.0), 0.0, 1.0)

    return per_target


def ndcg(k: int | None) -> PerTarget:
    """Discounted gain of the first k (None = all) over the ideal one, linear gains, log2 discount.

    Source: Jarvelin and Kekalainen 2002.

    Targets with gains are ranked lists; the others have one right answer, and the ideal is 1.
    Tied candidates share the mean of their gains (McSherry and Najork 2008, section 2). A list
    whose gains are all equal to zero says nothing and is left out.
    """

    def discount(rank: Floats) -> Floats:
        return np.where(rank <= (k or np.inf), 1.0 / np.log2(rank + 1.0), 0.0)

    def per_target(scores: TargetScores) -> Floats:
        if scores.has_gains:
            rows = zip(scores.probabilities_NK, scores.gains_NK, strict=True)
            return np.array([_list_ndcg(p_K, gain_K, discount) for p_K, gain_K in rows])
        better_N, tied_N = places(scores)
        return _mean_over_ties(better_N, tied_N, discount)

    return per_target


def impression_mrr(scores: TargetScores) -> Floats:
    """Mean over the clicked items of an impression of 1/rank among all that was shown.

    Source: Wu et al., MIND, ACL 2020, section 4.1; tied items share their places.
    """
    return _of_impressions(
        scores,
        lambda p_K, clicked_K: float(
            _mean_of_tied(p_K, clicked_K) @ (1.0 / np.arange(1.0, len(p_K) + 1)) / clicked_K.sum()
        ),
    )


def impression_ndcg(k: int) -> PerTarget:
    """NDCG of the first k items of an impression: a click gains 1, a skip 0."""

    def discount(rank: Floats) -> Floats:
        return np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)

    def per_target(scores: TargetScores) -> Floats:
        return _of_impressions(scores, lambda p_K, hit_K: _list_ndcg(p_K, hit_K, discount))

    return per_target


def _of_impressions(scores: TargetScores, of_list: Callable[[Floats, Floats], float]) -> Floats:
    """A number of each impression, at the first of its targets; NaN at the others.

    So the mean over targets is one over impressions, whatever their length. Where nothing was
    clicked, or everything, order says nothing: such an impression is left out.
    """
    p_N, clicked_N = two_classes(scores, "a metric of impressions")
    found_N = np.full(len(scores), np.nan)
    requests_N = np.full(len(scores), -1) if scores.requests_N is None else scores.requests_N
    order = np.argsort(requests_N, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(requests_N[order])) + 1):
        if len(rows) and requests_N[rows[0]] >= 0 and 0 < clicked_N[rows].sum() < len(rows):
            found_N[rows[0]] = of_list(p_N[rows], clicked_N[rows])
    return found_N


def note_kept(scores: TargetScores) -> Floats:
    """Share of the first m places that hold one of the m candidates which a note asks for.

    A gain of 1 or more marks those. Tied candidates share their places.
    """

    def of_list(p_K: Floats, gain_K: Floats) -> float:
        named_K = gain_K >= 1.0
        m = int(named_K.sum())
        inside = np.arange(len(p_K)) < m
        kept = float(_mean_of_tied(p_K, named_K.astype(np.float64)) @ inside)
        return kept / m if m else float("nan")

    return _of_lists(scores, of_list)


def note_rest_ndcg(scores: TargetScores) -> Floats:
    """NDCG, by taste, of the candidates that a note does not ask for, in the order they are given.

    The fractional part of a gain is taste; see `note_kept`.
    """

    def of_list(p_K: Floats, gain_K: Floats) -> float:
        rest_K = gain_K < 1.0
        return _list_ndcg(p_K[rest_K], gain_K[rest_K], lambda rank: 1.0 / np.log2(rank + 1.0))

    return _of_lists(scores, of_list)


def _of_lists(scores: TargetScores, of_list: Callable[[Floats, Floats], float]) -> Floats:
    """A number of each ranked list, from its candidates' probabilities and gains."""
    rows = zip(scores.probabilities_NK, scores.gains_NK, strict=True)
    real = ((p_K[~np.isnan(gain_K)], gain_K[~np.isnan(gain_K)]) for p_K, gain_K in rows)
    return np.array([of_list(p_K, gain_K) for p_K, gain_K in real])


def _mean_of_tied(p_K: Floats, gain_K: Floats) -> Floats:
    """Gains in the order of falling probability; tied candidates have the mean of theirs."""
    _, level, size = np.unique(-p_K, return_inverse=True, return_counts=True)
    mean_gain = np.bincount(level, weights=gain_K, minlength=len(size)) / size
    ordered: Floats = mean_gain[np.sort(level)]
    return ordered


def _mean_over_ties(better_N: Ints, tied_N: Ints, of_rank: Callable[[Floats], Floats]) -> Floats:
    """Mean of of_rank(r) over the ranks better+1 .. better+1+tied that the answer may have."""
    last = int((better_N + tied_N).max(initial=0)) + 1
    summed = np.concatenate([[0.0], np.cumsum(of_rank(np.arange(1.0, last + 1)))])
    mean_N: Floats = (summed[better_N + tied_N + 1] - summed[better_N]) / (tied_N + 1)
    return mean_N


def _list_ndcg(p_K: Floats, gain_K: Floats, discount: Callable[[Floats], Floats]) -> float:
    real = ~np.isnan(gain_K)
    p, gain = p_K[real], gain_K[real]
    discount_K = discount(np.arange(1.0, len(p) + 1))
    ideal = float(np.sort(gain)[::-1] @ discount_K)
    if ideal <= 0.0:
        return float("nan")
    return float(_mean_of_tied(p, gain) @ discount_K) / ideal
