"""Each metric against scikit-learn or a number worked out by hand, ties and weights included."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from train.evaluation.metrics import (
    METRICS,
    Metric,
    find_metric,
    mean_of,
    places,
    register_metric,
    secondary_metrics,
    users_with_one_class,
)
from train.evaluation.scores import TargetScores, Texts, class_values, pad


def scores(
    probabilities: list[list[float]],
    labels: list[int],
    *,
    users: list[int] | None = None,
    gains: list[list[float]] | None = None,
    values: list[float] | None = None,
    classes: tuple[str, ...] = ("No", "Yes"),
) -> TargetScores:
    n = len(labels)
    return TargetScores(
        groups_N=np.array(users if users is not None else range(n)),
        subjects_N=np.arange(n),
        labels_N=np.array(labels),
        n_choices_N=np.array([len(row) for row in probabilities]),
        probabilities_NK=pad(probabilities, 0.0),
        gains_NK=pad(gains if gains is not None else [[]] * n, math.nan),
        values_N=np.array(values if values is not None else [math.nan] * n),
        class_values_K=class_values(classes),
        better_N=np.full(n, -1),
        tied_N=np.zeros(n, np.int64),
        ranked_N=np.zeros(n, np.int64),
        label_mass_N=np.full(n, math.nan),
    )


def titles(better: list[int], tied: list[int]) -> TargetScores:
    n = len(better)
    return TargetScores(
        groups_N=np.arange(n),
        subjects_N=np.arange(n),
        labels_N=np.arange(n),
        n_choices_N=np.zeros(n, np.int64),
        probabilities_NK=np.zeros((n, 0)),
        gains_NK=np.zeros((n, 0)),
        values_N=np.full(n, math.nan),
        class_values_K=np.zeros(0),
        better_N=np.array(better),
        tied_N=np.array(tied),
        ranked_N=np.full(n, 200),
        label_mass_N=np.full(n, math.nan),
    )


@pytest.fixture(scope="module")
def binary() -> tuple[TargetScores, np.ndarray]:
    rng = np.random.default_rng(3)
    p_N = np.round(rng.random(400), 1)  # many ties
    label_N = (rng.random(400) < 0.2 + 0.6 * p_N).astype(int)
    users_N = rng.integers(0, 25, 400)
    made = scores([[1 - p, p] for p in p_N], label_N.tolist(), users=users_N.tolist())
    return made, rng.integers(0, 4, 400).astype(float)


def test_binary_metrics_equal_scikit_learn_with_and_without_weights(binary) -> None:
    made, weights_N = binary
    y_N, p_N = made.labels_N, made.probabilities_NK[:, 1]
    both_RN = np.stack([np.ones(len(made)), weights_N])
    for row, w_N in enumerate(both_RN):
        got = {name: METRICS[name].weighted(made, both_RN)[row] for name in ("auc", "logloss")}
        assert got["auc"] == pytest.approx(sk.roc_auc_score(y_N, p_N, sample_weight=w_N), abs=1e-12)
        clipped_N = np.clip(p_N, 1e-7, 1 - 1e-7)
        assert got["logloss"] == pytest.approx(sk.log_loss(y_N, clipped_N, sample_weight=w_N))
    assert METRICS["auc"](made) == pytest.approx(sk.roc_auc_score(y_N, p_N))


def test_auc_of_a_constant_scorer_is_one_half_and_of_one_class_undefined() -> None:
    assert METRICS["auc"](scores([[0.4, 0.6]] * 5, [0, 1, 1, 0, 1])) == 0.5
    assert math.isnan(METRICS["auc"](scores([[0.4, 0.6]] * 3, [1, 1, 1])))


def test_auc_of_three_choices_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two choices, these have \[3\]"):
        METRICS["auc"](scores([[0.2, 0.3, 0.5]], [1]))


def test_gauc_weights_users_by_targets_and_skips_users_with_one_class() -> None:
    made = scores(
        [[1 - p, p] for p in (0.9, 0.1, 0.3, 0.2, 0.7, 0.5)],
        [1, 0, 0, 0, 1, 1],
        users=[7, 7, 7, 9, 9, 11],
    )
    # User 7 is ranked perfectly (3 targets), user 9 perfectly (2), user 11 has one class.
    assert METRICS["gauc"](made) == 1.0
    assert users_with_one_class(made) == 1
    swapped = scores(
        [[1 - p, p] for p in (0.9, 0.1, 0.3, 0.8, 0.7, 0.5)],
        [1, 0, 0, 0, 1, 1],
        users=[7, 7, 7, 9, 9, 11],
    )
    assert METRICS["gauc"](swapped) == pytest.approx((3 * 1.0 + 2 * 0.0) / 5)


def test_ece_by_hand_and_zero_when_calibrated() -> None:
    made = scores([[0.1, 0.9]] * 4 + [[0.8, 0.2]] * 4, [1, 1, 1, 0, 0, 0, 0, 1])
    assert METRICS["ece"](made) == pytest.approx(0.5 * abs(0.9 - 0.75) + 0.5 * abs(0.2 - 0.25))
    sure = scores([[0.0, 1.0], [1.0, 0.0]], [1, 0])
    assert METRICS["ece"](sure) == 0.0
    top = scores([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]], [0, 1], classes=("a", "b", "c"))
    assert METRICS["ece"](top) == pytest.approx(abs(0.6 - 0.5))


def test_accuracy_shares_a_tie_and_ignores_padding() -> None:
    made = scores([[0.4, 0.4, 0.2], [0.0, 1.0], [0.5, 0.5]], [0, 1, 1])
    assert METRICS["accuracy"](made) == pytest.approx((0.5 + 1.0 + 0.5) / 3)


def test_rating_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    p_NK = rng.dirichlet(np.ones(5), 200)
    label_N = rng.integers(0, 5, 200)
    made = scores(p_NK.tolist(), label_N.tolist(), classes=("1", "2", "3", "4", "5"))
    expected_N = p_NK @ np.arange(1.0, 6.0)
    truth_N = label_N + 1.0
    assert METRICS["rmse_expected"](made) == pytest.approx(
        sk.root_mean_squared_error(truth_N, expected_N)
    )
    assert METRICS["mae_expected"](made) == pytest.approx(
        sk.mean_absolute_error(truth_N, expected_N)
    )
    nearest_N = np.abs(expected_N[:, None] - np.arange(1.0, 6.0)).argmin(1)
    kappa = sk.cohen_kappa_score(label_N, nearest_N, weights="quadratic", labels=range(5))
    assert METRICS["qwk"](made) == pytest.approx(kappa)


def test_rmse_prefers_the_value_of_the_target_to_that_of_its_class() -> None:
    made = scores([[0.0, 1.0]], [1], values=[4.5], classes=("4", "5"))
    assert METRICS["rmse_expected"](made) == pytest.approx(0.5)


def test_metrics_of_several_classes_equal_scikit_learn_with_weights() -> None:
    rng = np.random.default_rng(6)
    p_NK, label_N = rng.dirichlet(np.ones(4), 100), rng.integers(0, 4, 100)
    made = scores(p_NK.tolist(), label_N.tolist(), classes=("a", "b", "c", "d"))
    weights_RN = np.stack([np.ones(100), rng.integers(0, 4, 100).astype(float)])
    got = {n: METRICS[n].weighted(made, weights_RN) for n in ("macro_f1", "micro_f1", "macro_auc")}
    for row, w_N in enumerate(weights_RN):
        for average in ("macro", "micro"):
            f1 = sk.f1_score(label_N, p_NK.argmax(1), average=average, sample_weight=w_N)
            assert got[f"{average}_f1"][row] == pytest.approx(f1)
        one_vs_rest = [
            sk.roc_auc_score(label_N == c, p_NK[:, c], sample_weight=w_N) for c in range(4)
        ]
        assert got["macro_auc"][row] == pytest.approx(np.mean(one_vs_rest))


def test_f1_is_that_of_the_second_class(binary) -> None:
    made, weights_N = binary
    predicted_N = made.probabilities_NK.argmax(1)
    for row, w_N in enumerate((np.ones(len(made)), weights_N)):
        expected = sk.f1_score(made.labels_N, predicted_N, sample_weight=w_N)
        weights_RN = np.stack([np.ones(len(made)), weights_N])
        assert METRICS["f1"].weighted(made, weights_RN)[row] == pytest.approx(expected)
    assert math.isnan(METRICS["f1"](scores([[0.9, 0.1]], [0])))  # no positive, none predicted


def test_spearman_equals_scipy_on_copied_rows() -> None:
    rng = np.random.default_rng(9)
    p_NK = np.round(rng.dirichlet(np.ones(5), 80), 1)
    p_NK /= p_NK.sum(1, keepdims=True)
    value_N = rng.integers(1, 6, 80).astype(float)
    made = scores(
        p_NK.tolist(), (value_N - 1).astype(int).tolist(), classes=("1", "2", "3", "4", "5")
    )
    copies_N = rng.integers(0, 4, 80)
    weights_RN = np.stack([np.ones(80), copies_N.astype(float)])
    got_R = METRICS["spearman"].weighted(made, weights_RN)
    expected_N = p_NK @ np.arange(1.0, 6.0)
    assert got_R[0] == pytest.approx(stats.spearmanr(expected_N, value_N).statistic)
    rows = np.repeat(np.arange(80), copies_N)
    assert got_R[1] == pytest.approx(stats.spearmanr(expected_N[rows], value_N[rows]).statistic)
    # By hand: 1 - 6 * (0 + 1 + 1) / (3 * 8)
    three = scores([[1 - p, p] for p in (0.1, 0.5, 0.4)], [0, 0, 0], values=[1.0, 2.0, 3.0])
    assert METRICS["spearman"](three) == pytest.approx(0.5)


def test_sets_by_hand() -> None:
    made = scores(
        [[0.4, 0.3, 0.2, 0.1]], [0], gains=[[1.0, 0.0, 1.0, 1.0]], classes=("a", "b", "c", "d")
    )
    assert METRICS["set_f1@3"](made) == pytest.approx(2 * 2 / (3 + 3))
    assert METRICS["jaccard@3"](made) == pytest.approx(2 / 4)
    assert METRICS["set_f1@1"](made) == pytest.approx(2 * 1 / (1 + 3))
    assert METRICS["recall@1"](made) == pytest.approx(1 / 3)
    assert METRICS["set_f1"](made) == METRICS["set_f1@3"](made)  # as many as are right
    assert METRICS["recall@10"](made) == 1.0
    nothing = scores([[0.5, 0.5]], [0], gains=[[0.0, 0.0]])
    assert math.isnan(METRICS["jaccard"](nothing))
    with pytest.raises(ValueError, match="needs gains"):
        METRICS["jaccard"](scores([[0.5, 0.5]], [0]))


def test_sets_equal_scikit_learn_averaged_over_every_order_of_the_ties() -> None:
    rng = np.random.default_rng(10)
    p_NK = np.round(rng.random((12, 6)), 1)
    right_NK = rng.random((12, 6)) < 0.4
    right_NK[:, 0] = True
    made = scores(
        p_NK.tolist(), [0] * 12, gains=right_NK.astype(float).tolist(), classes=tuple("abcdef")
    )
    found = []
    for _ in range(800):  # ties broken at random, many times
        order = np.lexsort((rng.random((12, 6)), -p_NK), axis=1)
        answer_NK = np.zeros((12, 6), bool)
        np.put_along_axis(answer_NK, order[:, :3], True, axis=1)
        f1 = sk.f1_score(right_NK, answer_NK, average="samples")
        found.append((f1, sk.jaccard_score(right_NK, answer_NK, average="samples")))
    expected = np.mean(found, axis=0)
    assert METRICS["set_f1@3"](made) == pytest.approx(expected[0], abs=8e-3)
    assert METRICS["jaccard@3"](made) == pytest.approx(expected[1], abs=8e-3)


def test_recall_of_one_right_answer_is_the_hit_rate() -> None:
    made = titles([0, 4, 19, 9], [0, 2, 0, 3])
    assert METRICS["recall@10"](made) == METRICS["hr@10"](made)


def test_ndcg_of_graded_lists_equals_scikit_learn_on_ties() -> None:
    rng = np.random.default_rng(7)
    p_NK = np.round(rng.dirichlet(np.ones(8), 50), 1)
    gain_NK = rng.integers(1, 6, (50, 8)).astype(float)
    made = scores(p_NK.tolist(), [0] * 50, gains=gain_NK.tolist())
    assert METRICS["ndcg"](made) == pytest.approx(sk.ndcg_score(gain_NK, p_NK))
    assert METRICS["ndcg@3"](made) == pytest.approx(sk.ndcg_score(gain_NK, p_NK, k=3))


def test_a_list_without_any_gain_is_left_out() -> None:
    made = scores([[0.9, 0.1], [0.9, 0.1]], [0, 0], gains=[[0.0, 0.0], [0.0, 1.0]])
    assert METRICS["ndcg"](made) == pytest.approx(1 / math.log2(3))


def test_full_catalog_metrics_by_hand() -> None:
    made = titles([0, 4, 19, 9], [0, 0, 0, 0])
    assert METRICS["hr@10"](made) == pytest.approx(3 / 4)
    assert METRICS["mrr"](made) == pytest.approx((1 + 1 / 5 + 1 / 20 + 1 / 10) / 4)
    dcg = (1 / math.log2(2) + 1 / math.log2(6) + 0 + 1 / math.log2(11)) / 4
    assert METRICS["ndcg@10"](made) == pytest.approx(dcg)


def test_rank_metrics_take_the_expectation_over_tie_orders() -> None:
    made = titles([8], [3])  # rank 9, 10, 11 or 12, each as likely
    assert METRICS["hr@10"](made) == pytest.approx(2 / 4)
    assert METRICS["mrr"](made) == pytest.approx(sum(1 / r for r in (9, 10, 11, 12)) / 4)
    assert METRICS["ndcg@10"](made) == pytest.approx(sum(1 / math.log2(r + 1) for r in (9, 10)) / 4)
    # A constant scorer of 100 items gets k/100 and not 1: no metric rewards ties.
    assert METRICS["hr@10"](titles([0], [99])) == pytest.approx(0.1)


def test_places_of_choices_count_only_real_choices() -> None:
    better_N, tied_N = places(scores([[0.2, 0.5, 0.2, 0.1], [1.0, 0.0]], [2, 1]))
    assert better_N.tolist() == [1, 1]
    assert tied_N.tolist() == [1, 0]


def test_ranks_of_titles_equal_a_slow_reference_over_shuffled_scores() -> None:
    rng = np.random.default_rng(12)
    score_BN = rng.integers(0, 30, (40, 60)).astype(float)
    right_B = rng.integers(0, 60, 40)
    of_right_B = score_BN[np.arange(40), right_B]
    better_B = (score_BN > of_right_B[:, None]).sum(1)
    tied_B = (score_BN == of_right_B[:, None]).sum(1) - 1
    made = titles(better_B.tolist(), tied_B.tolist())
    found = []
    for _ in range(800):
        order = np.lexsort((rng.random(score_BN.shape), -score_BN), axis=1)
        rank_B = np.argwhere(order == right_B[:, None])[:, 1] + 1
        gain_B = np.where(rank_B <= 10, 1 / np.log2(rank_B + 1), 0)
        found.append(((rank_B <= 10).mean(), gain_B.mean(), (1 / rank_B).mean()))
    got = [METRICS[name](made) for name in ("hr@10", "ndcg@10", "mrr")]
    np.testing.assert_allclose(got, np.mean(found, axis=0), atol=3e-3)


def test_every_metric_has_a_direction_a_level_and_bounds() -> None:
    assert {m.name for m in METRICS.values() if not m.higher_is_better} == {
        "logloss",
        "ece",
        "rmse_expected",
        "mae_expected",
    }
    assert {m.name for m in METRICS.values() if m.level == "per_user"} == {"gauc"}
    perfect = scores(
        [[0.0, 1.0], [1.0, 0.0]] * 3, [1, 0] * 3, users=[0] * 6, gains=[[0, 1], [1, 0]] * 3
    )
    words_N = np.array(["crime drama"] * 6, object)
    perfect = dataclasses.replace(
        perfect,
        requests_N=np.array([0, 0, 2, 2, 4, 4]),
        texts=Texts(said_N=words_N, right_N=words_N, ground_N=words_N),
    )
    for metric in METRICS.values():
        if metric.name.startswith(("set_f1@", "jaccard@", "note_rest")):
            continue  # an answer of a fixed size has too many where fewer are right; no rest here
        best = 1.0 if metric.higher_is_better else 0.0
        assert metric(perfect) == pytest.approx(best, abs=1e-6), metric.name


def test_a_metric_of_ones_own_registers_once() -> None:
    def doubt(made: TargetScores) -> np.ndarray:
        return 1.0 - made.probabilities_NK.max(axis=1)

    mine = Metric("doubt", False, mean_of(doubt))
    register_metric(mine)
    try:
        assert find_metric("sampled_doubt")(scores([[0.3, 0.7]], [0])) == pytest.approx(0.3)
        with pytest.raises(ValueError, match="a metric called 'doubt' already"):
            register_metric(mine)
        with pytest.raises(ValueError, match="register the formula without it"):
            register_metric(Metric("sampled_doubt", False, mean_of(doubt)))
    finally:
        METRICS.pop("doubt")


def test_names() -> None:
    assert find_metric("sampled_auc").name == "sampled_auc"
    assert find_metric("sampled_auc").weighted is METRICS["auc"].weighted
    with pytest.raises(ValueError, match=r"no metric is called 'acuracy'; nearest: accuracy"):
        find_metric("acuracy")
    for kind, headline in (("label", "sampled_auc"), ("choice", "sampled_accuracy")):
        names = secondary_metrics(kind, headline, 2, gains=False)
        assert headline not in names
        assert all(name.startswith("sampled_") and find_metric(name) for name in names)


def test_a_note_is_kept_by_who_puts_first_what_it_asks_for() -> None:
    """Gains: the note asks for the first two; the rest have taste 0.2, 0.8 and 0."""
    gains = [[1.5, 1.0, 0.2, 0.8, 0.0]]
    kept, rest = find_metric("note_kept"), find_metric("note_rest_ndcg")
    in_order = scores([[0.4, 0.3, 0.15, 0.1, 0.05]], [0], gains=gains)
    assert kept(in_order) == 1.0
    ideal = 0.8 + 0.2 / np.log2(3)
    assert rest(in_order) == pytest.approx((0.2 + 0.8 / np.log2(3)) / ideal)
    one_of_two = scores([[0.4, 0.1, 0.05, 0.3, 0.15]], [0], gains=gains)
    assert kept(one_of_two) == 0.5
    assert rest(one_of_two) == pytest.approx((0.8 + 0.2 / 2) / ideal)
    tied = scores([[0.2] * 5], [0], gains=gains)
    assert kept(tied) == pytest.approx(2 / 5)
