"""The temperature of a task: found where it is known, and harmless where nothing can be found."""

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax

from train.evaluation.metrics import METRICS
from train.evaluation.scores import TargetScores
from train.evaluation.temperature import fit_temperature, with_temperature


def drawn(n: int, *, sharpness: float, seed: int = 0, choices: int = 4) -> TargetScores:
    """Labels follow softmax(logits); the scorer says softmax(sharpness * logits)."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 1.5, (n, choices))
    true_NK = softmax(logits_NK, axis=1)
    labels_N = (rng.random(n)[:, None] > true_NK.cumsum(1)).sum(1)
    whole_N = np.zeros(n, np.int64)
    return TargetScores(
        groups_N=np.arange(n),
        subjects_N=np.arange(n),
        labels_N=labels_N,
        n_choices_N=np.full(n, choices),
        probabilities_NK=softmax(sharpness * logits_NK, axis=1),
        gains_NK=np.zeros((n, 0)),
        values_N=np.full(n, np.nan),
        class_values_K=np.arange(float(choices)),
        better_N=whole_N - 1,
        tied_N=whole_N,
        ranked_N=whole_N,
        label_mass_N=np.ones(n),
    )


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done_to_the_logits(sharpness: float) -> None:
    temperature = fit_temperature(drawn(20_000, sharpness=sharpness))
    assert temperature == pytest.approx(sharpness, rel=0.04)
    test = drawn(5_000, sharpness=sharpness, seed=1)
    calibrated = with_temperature(test, temperature or 0.0)
    np.testing.assert_allclose(calibrated.probabilities_NK.sum(1), 1.0)
    assert METRICS["ece"](calibrated) < 0.025
    if sharpness == 3.0:
        assert METRICS["ece"](test) > 0.1
        assert METRICS["logloss"](calibrated) < METRICS["logloss"](test) - 0.1
    # Order, and so every metric of order, stays what it was.
    assert METRICS["accuracy"](calibrated) == METRICS["accuracy"](test)


def test_padding_stays_empty_and_certainty_stays_finite() -> None:
    made = drawn(3, sharpness=1.0)
    p_NK = np.array([[0.7, 0.3, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25] * 4])
    made = dataclasses.replace(made, probabilities_NK=p_NK, n_choices_N=np.array([2, 4, 4]))
    calibrated = with_temperature(made, 2.0)
    root = np.sqrt([0.7, 0.3])
    np.testing.assert_allclose(calibrated.probabilities_NK[0], [*(root / root.sum()), 0, 0])
    assert np.isfinite(calibrated.probabilities_NK).all()
    np.testing.assert_allclose(calibrated.probabilities_NK[2], 0.25)


def test_too_few_targets_have_no_temperature() -> None:
    assert fit_temperature(drawn(19, sharpness=1.0)) is None
    titles = dataclasses.replace(drawn(50, sharpness=1.0), n_choices_N=np.zeros(50, np.int64))
    assert fit_temperature(titles) is None
