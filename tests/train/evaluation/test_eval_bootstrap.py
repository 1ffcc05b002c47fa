"""The bootstrap: by resampling rows it gives the same numbers, and its intervals cover."""

import time

import numpy as np
import pytest

from train.evaluation.bootstrap import Bootstrap, BootstrapConfig, Interval
from train.evaluation.metrics import METRICS
from train.evaluation.scores import TargetScores

METRICS_OF_LABELS = [
    *("auc", "macro_auc", "gauc", "ece", "logloss", "accuracy", "f1", "macro_f1", "micro_f1"),
    *("qwk", "rmse_expected", "mae_expected", "spearman", "mrr", "hr@1", "ndcg"),
]


def binary_scores(rng: np.random.Generator, n_users: int, per_user: int) -> TargetScores:
    """Targets of users whose accuracy differs, so that targets of one user hang together."""
    n = n_users * per_user
    skill_U = rng.normal(0.4, 0.5, n_users)
    users_N = np.repeat(np.arange(n_users), per_user)
    label_N = rng.integers(0, 2, n)
    logit_N = (2 * label_N - 1) * skill_U[users_N] + rng.normal(0, 1, n)
    p_N = 1 / (1 + np.exp(-logit_N))
    return TargetScores(
        groups_N=users_N,
        subjects_N=np.arange(n),
        labels_N=label_N,
        n_choices_N=np.full(n, 2),
        probabilities_NK=np.stack([1 - p_N, p_N], 1),
        gains_NK=np.full((n, 0), np.nan),
        values_N=np.full(n, np.nan),
        class_values_K=np.array([0.0, 1.0]),
        better_N=np.full(n, -1),
        tied_N=np.zeros(n, np.int64),
        ranked_N=np.zeros(n, np.int64),
        label_mass_N=np.ones(n),
    )


def interval(
    made: TargetScores, config: BootstrapConfig, name: str, *, stream: str = "like"
) -> Interval:
    bootstrap = Bootstrap(made.groups_N, config, stream=stream)
    return bootstrap.interval(bootstrap.resample(METRICS[name], made))


@pytest.mark.parametrize("name", METRICS_OF_LABELS)
def test_weights_equal_copied_rows(name: str) -> None:
    made = binary_scores(np.random.default_rng(0), 12, 6)
    bootstrap = Bootstrap(made.groups_N, BootstrapConfig(resamples=5, seed=4), stream="like")
    values_R = bootstrap.resample(METRICS[name], made).values_R
    for r, draws_G in enumerate(bootstrap._draws_RG):
        rows = np.repeat(np.arange(len(made)), draws_G[made.groups_N])
        assert values_R[r] == pytest.approx(METRICS[name](made.take(rows)), abs=1e-12)


def test_interval_over_users_is_wider_than_over_targets_and_is_reproducible() -> None:
    made = binary_scores(np.random.default_rng(1), 30, 40)
    config = BootstrapConfig(resamples=400, seed=1)
    by_user = interval(made, config, "accuracy")
    again = interval(made, config, "accuracy")
    other = interval(made, config, "accuracy", stream="rating")
    assert by_user == again
    assert by_user.low != other.low
    assert by_user.low < by_user.value < by_user.high
    mean = made.probabilities_NK.argmax(1) == made.labels_N
    of_targets = 2 * 1.96 * mean.std() / np.sqrt(len(made))
    assert by_user.high - by_user.low > 1.5 * of_targets


def test_ninety_five_percent_intervals_cover_about_ninety_five_percent() -> None:
    rng = np.random.default_rng(2)
    truth = METRICS["auc"](binary_scores(rng, 20000, 10))
    hits = 0
    for trial in range(200):
        made = binary_scores(rng, 60, 10)
        config = BootstrapConfig(resamples=300, seed=trial)
        found = interval(made, config, "auc")
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_difference_is_paired_and_positive_when_ours_is_better() -> None:
    rng = np.random.default_rng(3)
    ours = binary_scores(rng, 60, 10)
    noisy_NK = 0.9 * ours.probabilities_NK + 0.1 * rng.dirichlet([1, 1], len(ours))
    theirs = TargetScores(
        **{
            **{name: getattr(ours, name) for name in TargetScores.__slots__},
            "probabilities_NK": noisy_NK,
        }
    )
    bootstrap = Bootstrap(ours.groups_N, BootstrapConfig(resamples=500), stream="like")
    for name in ("auc", "logloss"):  # one way up, one way down
        metric = METRICS[name]
        mine = bootstrap.resample(metric, ours)
        gap = bootstrap.difference(mine, bootstrap.resample(metric, theirs))
        assert gap.value == pytest.approx(metric.sign * (metric(ours) - metric(theirs)))
        single = bootstrap.interval(mine)
        assert gap.high - gap.low < 0.5 * (single.high - single.low)
    mine = bootstrap.resample(METRICS["auc"], ours)
    same = bootstrap.difference(mine, mine)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_difference_of_two_metrics_is_refused() -> None:
    made = binary_scores(np.random.default_rng(4), 10, 3)
    bootstrap = Bootstrap(made.groups_N, BootstrapConfig(resamples=10), stream="like")
    auc, ece = (bootstrap.resample(METRICS[name], made) for name in ("auc", "ece"))
    with pytest.raises(AssertionError, match="two metrics"):
        bootstrap.difference(auc, ece)


def test_a_thousand_resamples_of_two_thousand_targets_take_about_a_second() -> None:
    made = binary_scores(np.random.default_rng(6), 100, 20)
    bootstrap = Bootstrap(made.groups_N, BootstrapConfig(), stream="like")
    began = time.perf_counter()
    bootstrap.interval(bootstrap.resample(METRICS["auc"], made))
    assert time.perf_counter() - began < 3.0  # 0.1 s on a quiet core


def test_a_part_of_the_targets_is_resampled_with_the_draws_of_all() -> None:
    made = binary_scores(np.random.default_rng(5), 20, 5)
    bootstrap = Bootstrap(made.groups_N, BootstrapConfig(resamples=7), stream="like")
    rows = slice(30, 80)
    part = made.take(rows)
    values_R = bootstrap.resample(METRICS["accuracy"], part, rows).values_R
    weights_RN = bootstrap._draws_RG[:, made.groups_N].astype(float)
    expected_R = METRICS["accuracy"].weighted(part, weights_RN[:, rows])
    np.testing.assert_array_equal(values_R, expected_R)
    with pytest.raises(AssertionError, match="other targets"):
        bootstrap.resample(METRICS["accuracy"], part)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="resamples=0"):
        BootstrapConfig(resamples=0)
