"""Metrics of one task, each a small function over `TargetScores` and target weights.

The weights are what makes a bootstrap quick and exact: a resample that draws a user three times
gives the user's targets weight 3, so every metric is computed for R resamples at once and no target
is ever copied. Ties are never broken by position: AUC counts a tie as half, rank metrics take the
expectation over all orders of the tied candidates.

Shapes: N targets, K choices, R resamples, C classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from train.evaluation.scores import Floats, Ints, TargetScores

ECE_BINS = 15
SAMPLED = "sampled_"
_SMALLEST = 1e-7  # a log loss is finite even for a scorer that is certain and wrong

Weighted = Callable[[TargetScores, Floats], Floats]
"""(scores, weights_RN) -> values_R; NaN where the metric is undefined for a resample"""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: how it is called, which way is better, and how it is computed."""

    name: str
    higher_is_better: bool
    weighted: Weighted

    def __call__(self, scores: TargetScores) -> float:
        """The metric over all targets, each counted once."""
        return float(self.weighted(scores, np.ones((1, len(scores))))[0])

    @property
    def sign(self) -> float:
        """+1 where more is better, -1 where less is."""
        return 1.0 if self.higher_is_better else -1.0


# --- means over targets ------------------------------------------------------------------------


def mean_of(
    per_target: Callable[[TargetScores], Floats], finish: Callable[[Floats], Floats] | None = None
) -> Weighted:
    """A metric that is the weighted mean of one number per target; NaN numbers are left out."""

    def weighted(scores: TargetScores, weights_RN: Floats) -> Floats:
        x_N = per_target(scores)
        counted_N = ~np.isnan(x_N)
        total_R = weights_RN @ counted_N.astype(np.float64)
        mean_R = _ratio(weights_RN @ np.where(counted_N, x_N, 0.0), total_R)
        return finish(mean_R) if finish else mean_R

    return weighted


def log_loss(scores: TargetScores) -> Floats:
    """Negative log probability of the right choice, in nats."""
    return -np.log(np.clip(_probability_of_label(scores), _SMALLEST, 1.0))


def accuracy(scores: TargetScores) -> Floats:
    """1 where the right choice has the highest probability; 1/m where m choices share it."""
    p_NK = _masked(scores)
    best_N1 = p_NK.max(axis=1, keepdims=True)
    right_N = _probability_of_label(scores) == best_N1[:, 0]
    credit_N: Floats = right_N / (p_NK == best_N1).sum(axis=1)
    return credit_N


def squared_error(scores: TargetScores) -> Floats:
    """Squared error of the expected value E[r] = sum over classes of p(class) * value(class)."""
    return np.square(expected_value(scores) - true_value(scores))


def absolute_error(scores: TargetScores) -> Floats:
    """Absolute error of the expected value."""
    return np.abs(expected_value(scores) - true_value(scores))


def reciprocal_rank(scores: TargetScores) -> Floats:
    """Expected 1/rank of the right choice or item over all orders of its ties."""
    better_N, tied_N = places(scores)
    return _mean_over_ties(better_N, tied_N, lambda rank: 1.0 / rank)


def hit_rate(k: int) -> Callable[[TargetScores], Floats]:
    """Probability that the right choice or item stands among the first k."""

    def per_target(scores: TargetScores) -> Floats:
        better_N, tied_N = places(scores)
        return np.clip((k - better_N) / (tied_N + 1.0), 0.0, 1.0)

    return per_target


def ndcg(k: int | None) -> Callable[[TargetScores], Floats]:
    """Discounted gain of the first k (None = all) over the ideal one, linear gains, log2 discount.

    Source: Jarvelin and Kekalainen 2002.

    Targets with gains are ranked lists; the others have one right answer, and the ideal is 1.
    Tied candidates share the mean of their gains (McSherry and Najork 2008, section 2). A list
    whose gains are all equal to zero says nothing and is left out.
    """

    def discount(rank: Floats) -> Floats:
        return np.where(rank <= (k or np.inf), 1.0 / np.log2(rank + 1.0), 0.0)

    def per_target(scores: TargetScores) -> Floats:
        if scores.gains_NK.size and not np.isnan(scores.gains_NK).all():
            rows = zip(scores.probabilities_NK, scores.gains_NK, strict=True)
            return np.array([_list_ndcg(p_K, gain_K, discount) for p_K, gain_K in rows])
        better_N, tied_N = places(scores)
        return _mean_over_ties(better_N, tied_N, discount)

    return per_target


def user_auc(scores: TargetScores) -> Floats:
    """AUC of each target's own user; NaN for users who have one class only."""
    score_N, positive_N = _binary(scores)
    auc_N = np.full(len(scores), np.nan)
    order = np.argsort(scores.groups_N, kind="stable")
    edges = np.flatnonzero(np.diff(scores.groups_N[order])) + 1
    for rows in np.split(order, edges):
        if len(rows) and 0 < positive_N[rows].sum() < len(rows):
            auc_N[rows] = _auc(score_N[rows], positive_N[rows], np.ones((1, len(rows))))[0]
    return auc_N


def users_with_one_class(scores: TargetScores) -> int:
    """How many users `gauc` cannot count because all their targets have one label."""
    return len(np.unique(scores.groups_N[np.isnan(user_auc(scores))]))


# --- metrics of the whole set ------------------------------------------------------------------


def auc(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Area under the ROC curve of a two-class task; a tie counts one half (Mann-Whitney)."""
    score_N, positive_N = _binary(scores)
    return _auc(score_N, positive_N, weights_RN)


def expected_calibration_error(scores: TargetScores, weights_RN: Floats) -> Floats:
    """ECE with 15 bins of equal width (Naeini et al. 2015, section 2).

    Two classes: the probability of the second class against its frequency. More: the highest
    probability against how often that choice is right.
    """
    if _n_classes(scores) == 2:
        confidence_N, right_N = _binary(scores)
    else:
        confidence_N, right_N = _masked(scores).max(axis=1), accuracy(scores)
    bin_N = np.minimum((confidence_N * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    member_NB = np.eye(ECE_BINS)[bin_N]
    gap_RB = np.abs(weights_RN @ (member_NB * (confidence_N - right_N)[:, None]))
    return _ratio(gap_RB.sum(axis=1), weights_RN.sum(axis=1))


def quadratic_weighted_kappa(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Cohen's kappa with quadratic weights between true class and the class nearest to E[r]."""
    values_C = scores.class_values_K
    nearest_N = np.abs(expected_value(scores)[:, None] - values_C).argmin(axis=1)
    table_RCC = _confusion(scores.labels_N, nearest_N, len(values_C), weights_RN)
    distance_CC = np.square(values_C[:, None] - values_C[None, :])
    by_chance_RCC = table_RCC.sum(2)[:, :, None] * table_RCC.sum(1)[:, None, :]
    observed_R = (table_RCC * distance_CC).sum((1, 2)) * table_RCC.sum((1, 2))
    return 1.0 - _ratio(observed_R, (by_chance_RCC * distance_CC).sum((1, 2)))


def macro_f1(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Mean F1 of the classes that occur as truth or prediction (most probable class)."""
    predicted_N = _masked(scores).argmax(axis=1)
    table_RCC = _confusion(scores.labels_N, predicted_N, _n_classes(scores), weights_RN)
    both_RC = table_RCC.sum(2) + table_RCC.sum(1)
    f1_RC = 2.0 * np.diagonal(table_RCC, axis1=1, axis2=2) / np.where(both_RC > 0, both_RC, 1.0)
    return _ratio(f1_RC.sum(1), (both_RC > 0).sum(1).astype(np.float64))


# --- pieces --------------------------------------------------------------------------------------


def expected_value(scores: TargetScores) -> Floats:
    """E[value] under the class probabilities."""
    return scores.probabilities_NK @ scores.class_values_K[: scores.probabilities_NK.shape[1]]


def true_value(scores: TargetScores) -> Floats:
    """The target's own value, or the value of its class where none is given."""
    of_class_N = scores.class_values_K[scores.labels_N]
    return np.where(np.isnan(scores.values_N), of_class_N, scores.values_N)


def places(scores: TargetScores) -> tuple[Ints, Ints]:
    """(better_N, tied_N) of the right answer: among the choices, or among the catalog."""
    if (scores.n_choices_N == 0).all():
        return scores.better_N, scores.tied_N
    p_NK, right_N = _masked(scores), _probability_of_label(scores)
    return (p_NK > right_N[:, None]).sum(1), (p_NK == right_N[:, None]).sum(1) - 1


def _ratio(numerator_R: Floats, denominator_R: Floats) -> Floats:
    """Numerator over denominator, NaN where the denominator is zero."""
    safe_R = np.where(denominator_R > 0, denominator_R, 1.0)
    return np.where(denominator_R > 0, numerator_R / safe_R, np.nan)


def _masked(scores: TargetScores) -> Floats:
    """Probabilities with -1 in the padding, so that padding never wins or ties."""
    real_NK = np.arange(scores.probabilities_NK.shape[1]) < scores.n_choices_N[:, None]
    return np.where(real_NK, scores.probabilities_NK, -1.0)


def _probability_of_label(scores: TargetScores) -> Floats:
    right_N: Floats = np.take_along_axis(scores.probabilities_NK, scores.labels_N[:, None], 1)[:, 0]
    return right_N


def _n_classes(scores: TargetScores) -> int:
    return int(scores.probabilities_NK.shape[1])


def _binary(scores: TargetScores) -> tuple[Floats, Floats]:
    """(probability of the second class, 1 where it is right); AUC is the same for the first."""
    if (scores.n_choices_N != 2).any():
        sizes = sorted({int(n) for n in scores.n_choices_N})
        raise ValueError(
            f"AUC needs targets with two choices, these have {sizes}: give the task "
            f"another metric, one of {sorted(METRICS)}"
        )
    return scores.probabilities_NK[:, 1], (scores.labels_N == 1).astype(np.float64)


def _auc(score_N: Floats, positive_N: Floats, weights_RN: Floats) -> Floats:
    order = np.argsort(score_N, kind="stable")
    ordered_N = score_N[order]
    starts = np.flatnonzero(np.r_[True, np.diff(ordered_N) > 0]) if len(order) else np.zeros(0, int)
    w_RN = weights_RN[:, order]
    positive_RG = np.add.reduceat(w_RN * positive_N[order], starts, axis=1)
    negative_RG = np.add.reduceat(w_RN * (1.0 - positive_N[order]), starts, axis=1)
    below_RG = np.cumsum(negative_RG, axis=1) - 0.5 * negative_RG
    pairs_R = positive_RG.sum(1) * negative_RG.sum(1)
    return _ratio((positive_RG * below_RG).sum(1), pairs_R)


def _confusion(true_N: Ints, predicted_N: Ints, n: int, weights_RN: Floats) -> Floats:
    cell_NX = np.zeros((len(true_N), n * n))
    cell_NX[np.arange(len(true_N)), true_N * n + predicted_N] = 1.0
    return (weights_RN @ cell_NX).reshape(-1, n, n)


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
    _, level, size = np.unique(-p, return_inverse=True, return_counts=True)
    mean_gain = np.bincount(level, weights=gain) / size
    return float(mean_gain[np.sort(level)] @ discount_K) / ideal


# --- the registry --------------------------------------------------------------------------------


def _at(k: int) -> list[Metric]:
    return [
        Metric(f"hr@{k}", True, mean_of(hit_rate(k))),
        Metric(f"ndcg@{k}", True, mean_of(ndcg(k))),
    ]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        Metric("auc", True, auc),
        Metric("gauc", True, mean_of(user_auc)),
        Metric("logloss", False, mean_of(log_loss)),
        Metric("ece", False, expected_calibration_error),
        Metric("accuracy", True, mean_of(accuracy)),
        Metric("macro_f1", True, macro_f1),
        Metric("rmse_expected", False, mean_of(squared_error, np.sqrt)),
        Metric("mae_expected", False, mean_of(absolute_error)),
        Metric("qwk", True, quadratic_weighted_kappa),
        Metric("mrr", True, mean_of(reciprocal_rank)),
        Metric("ndcg", True, mean_of(ndcg(None))),
        *(metric for k in (1, 3, 5, 10, 20, 50, 100) for metric in _at(k)),
    ]
}


def find_metric(name: str) -> Metric:
    """The metric called `name`; "sampled_" in front marks sampled negatives, the formula is one.

    Raises:
        ValueError: no metric has that name; the message lists the nearest.
    """
    plain = name.removeprefix(SAMPLED)
    if plain not in METRICS:
        near = difflib.get_close_matches(plain, METRICS, n=3, cutoff=0.4) or sorted(METRICS)
        raise ValueError(f"no metric is called {name!r}; nearest: {', '.join(near)}")
    return replace(METRICS[plain], name=name)


def secondary_metrics(kind: str, headline: str, labels: int, gains: bool) -> tuple[str, ...]:
    """What to report beside the headline metric, by the shape of the task."""
    if kind == "title":
        names = ["hr@1", "hr@10", "hr@50", "ndcg@10", "mrr"]
    elif kind == "choice":
        names = ["accuracy", "mrr", "logloss", *(["ndcg"] if gains else [])]
    elif labels == 2:
        names = ["auc", "gauc", "accuracy", "logloss", "ece"]
    elif headline.removeprefix(SAMPLED) in ("rmse_expected", "mae_expected", "qwk"):
        names = ["rmse_expected", "mae_expected", "qwk", "accuracy", "logloss"]
    else:
        names = ["accuracy", "macro_f1", "logloss", "ece"]
    prefix = SAMPLED if headline.startswith(SAMPLED) else ""
    return tuple(prefix + name for name in names if prefix + name != headline)
