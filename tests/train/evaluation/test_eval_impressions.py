"""Ranks within an impression: by hand, of whole impressions, and by another name of parts."""

import math
from pathlib import Path

import numpy as np
import pytest
from tiny_rich import make_rich_corpus

from data_pipeline.build import compile_store
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.exam import phase_trees
from train.evaluation.metrics import IMPRESSION_METRICS, find_metric, secondary_metrics
from train.evaluation.prediction_file import read_predictions, write_predictions
from train.evaluation.questions import answered, collect
from train.evaluation.rows import TaskScores, make_row
from train.evaluation.run import parse_job
from train.evaluation.scores import TargetScores, class_values, pad

CONFIG = MixtureConfig(targets_per_tree=3, history_events=6)


def shown(probability: list[float], clicked: list[int], requests: list[int]) -> TargetScores:
    n = len(clicked)
    return TargetScores(
        groups_N=np.zeros(n, np.int64),
        subjects_N=np.arange(n),
        labels_N=np.array(clicked),
        n_choices_N=np.full(n, 2),
        probabilities_NK=np.array([[1 - p, p] for p in probability]),
        gains_NK=pad([[]] * n, math.nan),
        values_N=np.full(n, math.nan),
        class_values_K=class_values(("No", "Yes")),
        better_N=np.full(n, -1),
        tied_N=np.zeros(n, np.int64),
        ranked_N=np.zeros(n, np.int64),
        label_mass_N=np.full(n, math.nan),
        requests_N=np.array(requests),
    )


def test_impressions_by_hand() -> None:
    """Clicks at places 2 and 3 of 4; one of a tied pair; at place 6 of 6; and three left out.

    They stand mixed: targets of an impression need not come one after another.
    """
    scores = shown(
        [0.9, 0.5, 0.8, 0.1, 0.5, 0.7, 0.3, 0.4, 0.9, *(0.9, 0.8, 0.7, 0.6, 0.5, 0.4)],
        [0, 1, 1, 0, 0, 1, 0, 0, 1, *(0, 0, 0, 0, 0, 1)],
        [2, 7, 2, 2, 7, 2, 20, 20, -1, *[30] * 6],
    )
    two, three, seven = (1 / math.log2(rank) for rank in (3, 4, 7))
    expected = {
        "impression_mrr": [(1 / 2 + 1 / 3) / 2, (1 + 1 / 2) / 2, 1 / 6],
        "impression_ndcg@5": [(two + three) / (1 + two), (1 + two) / 2, 0.0],
        "impression_ndcg@10": [(two + three) / (1 + two), (1 + two) / 2, seven],
    }
    assert set(expected) == set(IMPRESSION_METRICS)
    for name, of_each in expected.items():
        assert find_metric(name)(scores) == pytest.approx(np.mean(of_each)), name
        assert find_metric(name).level == "per_impression"
        # The bootstrap draws a user's impressions together: a weight counts for all of one.
        weight_RN = np.where(np.isin(scores.requests_N, [2, 7]), 2.0, 1.0)[None]
        weighted = find_metric(name).weighted(scores, weight_RN)
        assert weighted == pytest.approx((2 * sum(of_each[:2]) + of_each[2]) / 5)


def test_without_a_click_or_a_skip_there_is_no_order() -> None:
    scores = shown([0.1, 0.2, 0.3, 0.4], [1, 1, 0, 0], [0, 0, 2, 2])
    assert all(math.isnan(find_metric(name)(scores)) for name in IMPRESSION_METRICS)


def test_they_are_secondary_where_something_was_shown() -> None:
    names = secondary_metrics("label", "auc", 2, gains=False, shown=True)
    assert set(IMPRESSION_METRICS) < set(names)
    assert not set(IMPRESSION_METRICS) & set(secondary_metrics("label", "auc", 2, gains=False))


@pytest.fixture(scope="module")
def long_lists(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Four films per impression, and windows of three events."""
    folder = tmp_path_factory.mktemp("long")
    return compile_store(make_rich_corpus(folder / "corpus"), "train:1024", folder / "store")


def clicks(store: TokenStore, *, whole: bool, max_targets: int = 60) -> EvaluationSet:
    return EvaluationSet(
        store,
        [all_tasks()["click"], all_tasks()["like"]],
        phase=Phase.TEST,
        config=CONFIG,
        seed=1,
        max_targets=max_targets,
        whole_impressions=whole,
    )


def test_whole_impressions_are_asked_about(long_lists: TokenStore) -> None:
    store = long_lists
    evaluation = clicks(store, whole=True)
    subjects = sorted(
        branch.subject for tree in evaluation for branch in tree.branches if branch.task == 0
    )
    assert 40 < len(subjects) <= 60
    assert len(set(subjects)) == len(subjects)
    opens_E = store.event_opens_request_E
    known = set(subjects)
    for subject in subjects:
        assert opens_E[subject] or subject - 1 in known
        assert subject + 1 in known or opens_E[subject + 1]
    assert all(
        len([branch for branch in tree.branches if branch.task == 0]) <= CONFIG.targets_per_tree
        for tree in evaluation
    )
    assert evaluation.targets["like"] == clicks(store, whole=False).targets["like"]


def test_an_impression_that_does_not_fit_is_not_begun(long_lists: TokenStore) -> None:
    assert clicks(long_lists, whole=True, max_targets=3).targets["click"] == 0
    assert clicks(long_lists, whole=True, max_targets=6).targets["click"] == 4


@pytest.mark.parametrize("whole", [True, False])
def test_only_parts_of_impressions_are_called_sampled(
    long_lists: TokenStore, whole: bool, tmp_path: Path
) -> None:
    task, store = all_tasks()["click"], long_lists
    config = EvaluationConfig(max_targets=60, whole_impressions=whole)
    trees = phase_trees(store, [task], Phase.TEST, CONFIG, config)
    asked = collect(trees, [task])["click"]
    # Who knows the answers, and slightly prefers what comes later, ranks every click first.
    probabilities = [
        [1 - p, p] for p in (0.5 * one.question.label + 1e-6 * one.subject for one in asked)
    ]
    scores = answered(task, asked, probabilities=probabilities)
    row = make_row(
        store,
        TaskScores(
            task=task, asked=asked, model=scores, swapped=None, untrained=None, baselines={}
        ),
        BootstrapConfig(resamples=20),
    )
    found = {name for name in row.secondary if "impression" in name}
    prefix = "" if whole else "sampled_"
    assert found == {f"{prefix}{name}" for name in IMPRESSION_METRICS}
    assert row.secondary[f"{prefix}impression_ndcg@5"] == pytest.approx(1.0)
    assert row.metric == "auc"
    # A file of predictions keeps which of them were shown together.
    write_predictions(tmp_path / "p.parquet", {("rich", "click"): scores})
    again = read_predictions(tmp_path / "p.parquet")["rich", "click"]
    assert again.requests_N is not None
    assert scores.requests_N is not None
    assert again.requests_N.tolist() == scores.requests_N.tolist()


def test_whole_impressions_are_an_option() -> None:
    assert parse_job(["--run", "x", "--whole-impressions"]).settings.whole_impressions
    assert not parse_job(["--run", "x"]).settings.whole_impressions
