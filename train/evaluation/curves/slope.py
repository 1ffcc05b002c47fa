"""The slope of a metric over x, with its interval over users.

Shapes: N targets of all points, P points, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.tasks.base import Task
from train.evaluation.bootstrap import Bootstrap, BootstrapConfig, interval_of
from train.evaluation.metrics import find_metric
from train.evaluation.results import Range
from train.evaluation.scores import TargetScores

_FEWEST_POINTS = 2


def slope(
    task: Task, parts: Sequence[tuple[float, TargetScores]], config: BootstrapConfig
) -> Range | None:
    """Metric per unit of x: least squares over the points, each counted by its targets.

    Users are drawn once for all points, so that a user in several months is in all of them or in
    none. None where fewer than two points have a metric.
    """
    metric = find_metric(task.metric)
    defined = [(x, scores) for x, scores in parts if np.isfinite(metric(scores))]
    if len(defined) < _FEWEST_POINTS:
        return None
    x_P = np.array([x for x, _ in defined])
    n_P = np.array([float(len(scores)) for _, scores in defined])
    groups_N = np.concatenate([scores.groups_N for _, scores in defined])
    bootstrap = Bootstrap(groups_N, config, stream=f"{task.name}/slope")
    stops = np.cumsum([len(scores) for _, scores in defined]).tolist()
    value_PR = np.stack(
        [
            bootstrap.resample(metric, scores, slice(stop - len(scores), stop)).values_R
            for (_, scores), stop in zip(defined, stops, strict=True)
        ]
    )
    value_P = np.array([metric(scores) for _, scores in defined])
    value = float(_least_squares(x_P, n_P, value_P[:, None])[0])
    return Range.of(interval_of(value, _least_squares(x_P, n_P, value_PR), config.level))


def _least_squares(x_P: np.ndarray, n_P: np.ndarray, value_PR: np.ndarray) -> np.ndarray:
    """Weighted slope of each column; a point without a value in a resample is left out of it."""
    weight_PR = np.where(np.isnan(value_PR), 0.0, n_P[:, None])
    value_PR = np.where(np.isnan(value_PR), 0.0, value_PR)
    total_R = weight_PR.sum(0)
    safe_R = np.where(total_R > 0, total_R, 1.0)
    x_PR = x_P[:, None] - (weight_PR * x_P[:, None]).sum(0) / safe_R
    variance_R = (weight_PR * x_PR**2).sum(0)
    covariance_R = (weight_PR * x_PR * value_PR).sum(0)
    slope_R: np.ndarray = np.where(
        variance_R > 0, covariance_R / np.where(variance_R > 0, variance_R, 1.0), np.nan
    )
    return slope_R
