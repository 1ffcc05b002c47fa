"""Metrics of label tasks: how well classes are told apart, and how far probabilities hold.

Shapes: N targets, K choices, C classes, R resamples, G groups of equal score.
"""

from __future__ import annotations

import numpy as np

from train.evaluation.metrics.base import (
    masked,
    n_classes,
    probability_of_label,
    ratio,
    two_classes,
)
from train.evaluation.scores import Floats, Ints, TargetScores

ECE_BINS = 15
_SMALLEST = 1e-7  # a log loss is finite even for a scorer that is certain and wrong


def log_loss(scores: TargetScores) -> Floats:
    """Negative log probability of the right choice, in nats."""
    return -np.log(np.clip(probability_of_label(scores), _SMALLEST, 1.0))


def accuracy(scores: TargetScores) -> Floats:
    """1 where the right choice has the highest probability; 1/m where m choices share it."""
    p_NK = masked(scores)
    best_N1 = p_NK.max(axis=1, keepdims=True)
    right_N = probability_of_label(scores) == best_N1[:, 0]
    credit_N: Floats = right_N / (p_NK == best_N1).sum(axis=1)
    return credit_N


def auc(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Area under the ROC curve of a two-class task; a tie counts one half (Mann-Whitney)."""
    score_N, positive_N = two_classes(scores, "AUC")
    return _auc(score_N, positive_N, weights_RN)


def macro_auc(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Mean over classes of the AUC of the class against the others.

    A class that a resample has no target of, or nothing but targets of, is left out.
    """
    of_class_CR = np.stack(
        [
            _auc(
                scores.probabilities_NK[:, c], (scores.labels_N == c).astype(np.float64), weights_RN
            )
            for c in range(n_classes(scores))
        ]
    )
    defined_CR = ~np.isnan(of_class_CR)
    total_R = np.where(defined_CR, of_class_CR, 0.0).sum(0)
    return ratio(total_R, defined_CR.sum(0).astype(np.float64))


def user_auc(scores: TargetScores) -> Floats:
    """AUC of each target's own user; NaN for users who have one class only.

    Averaged over targets this is gAUC, in which a user counts by impressions (Zhu et al.,
    "Optimized Cost per Click in Taobao Display Advertising", KDD 2017, section 5).
    """
    score_N, positive_N = two_classes(scores, "gAUC")
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


def expected_calibration_error(scores: TargetScores, weights_RN: Floats) -> Floats:
    """ECE with 15 bins of equal width (Naeini et al. 2015, section 2).

    Two classes: the probability of the second class against its frequency. More: the highest
    probability against how often that choice is right.
    """
    if (scores.n_choices_N == 2).all():
        confidence_N, right_N = two_classes(scores, "ECE")
    else:
        confidence_N, right_N = masked(scores).max(axis=1), accuracy(scores)
    bin_N = np.minimum((confidence_N * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    member_NB = np.eye(ECE_BINS)[bin_N]
    gap_RB = np.abs(weights_RN @ (member_NB * (confidence_N - right_N)[:, None]))
    return ratio(gap_RB.sum(axis=1), weights_RN.sum(axis=1))


def macro_f1(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Mean F1 of the classes that occur as truth or prediction (most probable class)."""
    f1_RC, occurs_RC = _f1(scores, weights_RN)
    return ratio(f1_RC.sum(1), occurs_RC.sum(1).astype(np.float64))


def micro_f1(scores: TargetScores, weights_RN: Floats) -> Floats:
    """F1 of all classes' hits and misses together: with one label each, the share of hits."""
    table_RCC = confusion(scores.labels_N, _predicted(scores), n_classes(scores), weights_RN)
    return ratio(np.trace(table_RCC, axis1=1, axis2=2), table_RCC.sum((1, 2)))


def positive_f1(scores: TargetScores, weights_RN: Floats) -> Floats:
    """F1 of the second of two classes; undefined where it neither occurs nor is predicted."""
    two_classes(scores, "F1")
    f1_RC, occurs_RC = _f1(scores, weights_RN)
    return np.where(occurs_RC[:, 1], f1_RC[:, 1], np.nan)


def confusion(true_N: Ints, predicted_N: Ints, n: int, weights_RN: Floats) -> Floats:
    """Weight of each (true, predicted) pair of classes, [R, n, n]."""
    cell_NX = np.zeros((len(true_N), n * n))
    cell_NX[np.arange(len(true_N)), true_N * n + predicted_N] = 1.0
    return (weights_RN @ cell_NX).reshape(-1, n, n)


def _predicted(scores: TargetScores) -> Ints:
    predicted_N: Ints = masked(scores).argmax(axis=1)
    return predicted_N


def _f1(scores: TargetScores, weights_RN: Floats) -> tuple[Floats, Ints]:
    """F1 of each class, 0 where it does not occur, and whether it occurs."""
    table_RCC = confusion(scores.labels_N, _predicted(scores), n_classes(scores), weights_RN)
    both_RC = table_RCC.sum(2) + table_RCC.sum(1)
    f1_RC = 2.0 * np.diagonal(table_RCC, axis1=1, axis2=2) / np.where(both_RC > 0, both_RC, 1.0)
    return f1_RC, both_RC > 0


def _auc(score_N: Floats, positive_N: Floats, weights_RN: Floats) -> Floats:
    order = np.argsort(score_N, kind="stable")
    ordered_N = score_N[order]
    starts = np.flatnonzero(np.r_[True, np.diff(ordered_N) > 0]) if len(order) else np.zeros(0, int)
    w_RN = weights_RN[:, order]
    positive_RG = np.add.reduceat(w_RN * positive_N[order], starts, axis=1)
    negative_RG = np.add.reduceat(w_RN * (1.0 - positive_N[order]), starts, axis=1)
    below_RG = np.cumsum(negative_RG, axis=1) - 0.5 * negative_RG
    pairs_R = positive_RG.sum(1) * negative_RG.sum(1)
    return ratio((positive_RG * below_RG).sum(1), pairs_R)
