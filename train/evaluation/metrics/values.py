"""Metrics of tasks whose classes stand for numbers: ratings, buckets, grades.

Shapes: N targets, K choices, C classes, R resamples.
"""

from __future__ import annotations

import numpy as np

from train.evaluation.metrics.base import ratio
from train.evaluation.metrics.labels import confusion
from train.evaluation.scores import Floats, TargetScores


def expected_value(scores: TargetScores) -> Floats:
    """E[value] under the class probabilities."""
    return scores.probabilities_NK @ scores.class_values_K[: scores.probabilities_NK.shape[1]]


def true_value(scores: TargetScores) -> Floats:
    """The target's own value, or the value of its class where none is given."""
    of_class_N = scores.class_values_K[scores.labels_N]
    return np.where(np.isnan(scores.values_N), of_class_N, scores.values_N)


def squared_error(scores: TargetScores) -> Floats:
    """Squared error of the expected value E[r] = sum over classes of p(class) * value(class)."""
    return np.square(expected_value(scores) - true_value(scores))


def absolute_error(scores: TargetScores) -> Floats:
    """Absolute error of the expected value."""
    return np.abs(expected_value(scores) - true_value(scores))


def quadratic_weighted_kappa(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Cohen's kappa with quadratic weights between true class and the class nearest to E[r]."""
    values_C = scores.class_values_K
    nearest_N = np.abs(expected_value(scores)[:, None] - values_C).argmin(axis=1)
    table_RCC = confusion(scores.labels_N, nearest_N, len(values_C), weights_RN)
    distance_CC = np.square(values_C[:, None] - values_C[None, :])
    by_chance_RCC = table_RCC.sum(2)[:, :, None] * table_RCC.sum(1)[:, None, :]
    observed_R = (table_RCC * distance_CC).sum((1, 2)) * table_RCC.sum((1, 2))
    return 1.0 - ratio(observed_R, (by_chance_RCC * distance_CC).sum((1, 2)))


def spearman(scores: TargetScores, weights_RN: Floats) -> Floats:
    """Rank correlation of the expected value with the true one; tied ranks are averaged."""
    x_RN = _ranks(expected_value(scores), weights_RN)
    y_RN = _ranks(true_value(scores), weights_RN)
    total_R1 = np.maximum(weights_RN.sum(1, keepdims=True), 1.0)
    x_RN = x_RN - (weights_RN * x_RN).sum(1, keepdims=True) / total_R1
    y_RN = y_RN - (weights_RN * y_RN).sum(1, keepdims=True) / total_R1
    covariance_R, x_R, y_R = (
        (weights_RN * part_RN).sum(1) for part_RN in (x_RN * y_RN, x_RN**2, y_RN**2)
    )
    return ratio(covariance_R, np.sqrt(x_R * y_R))


def _ranks(value_N: Floats, weights_RN: Floats) -> Floats:
    """Rank of each target as if it stood there as often as its weight says, [R, N]."""
    order = np.argsort(value_N, kind="stable")
    fresh_N = np.r_[True, np.diff(value_N[order]) > 0][: len(order)]
    starts, level_N = np.flatnonzero(fresh_N), np.empty(len(order), np.int64)
    level_N[order] = np.cumsum(fresh_N) - 1
    weight_RG = np.add.reduceat(weights_RN[:, order], starts, axis=1) if len(order) else weights_RN
    rank_RG = np.cumsum(weight_RG, axis=1) - 0.5 * weight_RG + 0.5
    return rank_RG[:, level_N]
