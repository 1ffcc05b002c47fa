"""One temperature per task, fitted on validation: how far off a model's confidence is.

Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
section 4.2.

Shapes: N targets, K choices.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from train.evaluation.metrics import METRICS
from train.evaluation.scores import TargetScores

_SMALLEST = 1e-12
_RANGE = (0.05, 20.0)
FEWEST_TARGETS = 20
"""Fewer say more about themselves than about the model."""


def fit_temperature(validation: TargetScores) -> float | None:
    """The temperature of the least log loss; None where there is too little to fit it on."""
    if len(validation) < FEWEST_TARGETS or (validation.n_choices_N < 2).any():
        return None

    def loss(log_temperature: float) -> float:
        return METRICS["logloss"](with_temperature(validation, float(np.exp(log_temperature))))

    # The loss is convex in 1/T, so it has one minimum in any monotone function of T.
    found = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded")
    return float(np.exp(found.x))


def with_temperature(scores: TargetScores, temperature: float) -> TargetScores:
    """The same answers with probabilities in proportion to p^(1/T)."""
    real_NK = np.arange(scores.probabilities_NK.shape[1]) < scores.n_choices_N[:, None]
    log_p_NK = np.log(np.maximum(scores.probabilities_NK, _SMALLEST)) / temperature
    log_p_NK = np.where(real_NK, log_p_NK, -np.inf)
    weight_NK = np.exp(log_p_NK - log_p_NK.max(axis=1, keepdims=True))
    return replace(scores, probabilities_NK=weight_NK / weight_NK.sum(axis=1, keepdims=True))
