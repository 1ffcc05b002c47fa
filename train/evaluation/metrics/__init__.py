"""Metrics of one task. Names, directions and levels are in `registry`; formulas by kind of task."""

from train.evaluation.metrics.base import Level, Metric, Weighted, mean_of
from train.evaluation.metrics.labels import ECE_BINS, users_with_one_class
from train.evaluation.metrics.ranking import places
from train.evaluation.metrics.registry import (
    IMPRESSION_METRICS,
    METRICS,
    SAMPLED,
    find_metric,
    register_metric,
    secondary_metrics,
)

__all__ = [
    "ECE_BINS",
    "IMPRESSION_METRICS",
    "METRICS",
    "SAMPLED",
    "Level",
    "Metric",
    "Weighted",
    "find_metric",
    "mean_of",
    "places",
    "register_metric",
    "secondary_metrics",
    "users_with_one_class",
]
