"""Baselines: right by hand, better than chance where there is something to learn, and leak-safe."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks, applicable
from train.evaluation.baselines import (
    BASELINES,
    Baseline,
    Questions,
    find_baseline,
    register_baseline,
)
from train.evaluation.baselines.base import choose, excluded_items, seen_items
from train.evaluation.baselines.features import ItemClock
from train.evaluation.baselines.item_knn import co_occurrences, normalised
from train.evaluation.baselines.matrix_factorization import _matrix, _solve
from train.evaluation.baselines.sequence import SequenceBaseline
from train.evaluation.metrics import find_metric
from train.evaluation.questions import Asked, collect, place_in_catalog
from train.sequences import SequenceData

CONFIG = MixtureConfig(targets_per_tree=8, history_events=12)
Asks = dict[str, list[Asked]]


def questions(store: TokenStore, tasks: Sequence[Task], phase: Phase) -> Asks:
    asked = EvaluationSet(store, tasks, phase=phase, config=CONFIG, seed=3, max_targets=600)
    return collect(asked, tasks)


@pytest.fixture(scope="module")
def tasks(tiny_store: TokenStore) -> list[Task]:
    return [task for task in all_tasks().values() if applicable(task, tiny_store) is None]


@pytest.fixture(scope="module")
def asked(tiny_store: TokenStore, tasks: list[Task]) -> tuple[Asks, Asks, Asks]:
    labels = {t.name: 1.0 for t in tasks if t.kind == "label" and t.tier == "T1"}
    mixture = Mixture([tiny_store], MixtureConfig(tasks=labels), seed=1)
    train = collect((mixture[i] for i in range(500)), mixture.tasks)
    return (
        train,
        questions(tiny_store, tasks, Phase.VALIDATION),
        questions(tiny_store, tasks, Phase.TEST),
    )


def of_task(asked: tuple[Asks, Asks, Asks], name: str) -> Questions:
    train, validation, test = asked
    return Questions(train=train.get(name, []), validation=validation[name], test=test[name])


NEXT_ITEM = ("next_item_title", "next_item_choice", "will_watch")


# The tiny corpus has nothing that these could answer; their own tests have.
UNUSED = {"word_overlap", "item_text", "bag_of_words"}


@pytest.mark.parametrize("name", sorted(set(BASELINES) - UNUSED))
def test_every_baseline_answers_every_task_that_names_it(
    tiny_store: TokenStore, tasks: list[Task], asked: tuple[Asks, Asks, Asks], name: str
) -> None:
    baseline = BASELINES[name](tiny_store, 0)
    baseline.fit()
    named = [task for task in tasks if name in task.baselines]
    if issubclass(BASELINES[name], SequenceBaseline):
        named = [task for task in tasks if task.name in NEXT_ITEM]
        assert baseline.settings["settings_tried"] == 1
    assert named
    for task in named:
        part = of_task(asked, task.name)
        scores = baseline.answer(task, part)
        assert len(scores) == len(part.test)
        if task.kind == "title":
            assert (scores.better_N >= 0).all()
        elif task.kind == "text":
            assert scores.texts is not None
            assert all(scores.texts.said_N) == bool(part.train or part.validation)
        elif len(scores):
            np.testing.assert_allclose(scores.probabilities_NK.sum(axis=1), 1.0)
        if len(scores):
            assert np.isfinite(find_metric(task.metric)(scores))


@pytest.mark.parametrize("name", ["logistic", "gradient_boosting"])
def test_tabular_models_find_the_taste_that_is_in_the_corpus(
    tiny_store: TokenStore, asked: tuple[Asks, Asks, Asks], name: str
) -> None:
    scores = BASELINES[name](tiny_store, 0).answer(all_tasks()["like"], of_task(asked, "like"))
    known_N = np.array([one.moment.cut - one.moment.start for one in asked[2]["like"]])
    assert find_metric("auc")(scores.take(known_N >= 12)) > 0.7


def mutated(store: TokenStore, keep_E: np.ndarray) -> TokenStore:
    """The store with other items and values in all events that are not kept."""
    other = copy.copy(store)
    rng = np.random.default_rng(0)
    other.event_item_E, other.event_value_E = store.event_item_E.copy(), store.event_value_E.copy()
    n = int((~keep_E).sum())
    other.event_item_E[~keep_E] = rng.integers(0, store.n_items, n)
    other.event_value_E[~keep_E] = rng.integers(1, 6, n)
    return other


def on(baseline: Baseline, store: TokenStore) -> Baseline:
    """A fitted baseline that reads its events from another store."""
    moved = copy.copy(baseline)
    moved.store = store
    if hasattr(moved, "_features"):
        moved._features = copy.copy(moved._features)
        moved._features.store = store
    return moved


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("item_knn", "next_item_title"),
        ("sasrec", "next_item_choice"),
        ("gru4rec", "next_item_title"),
        ("matrix_factorization", "like"),
        ("logistic", "like"),
        ("gradient_boosting", "rating"),
    ],
)
def test_nothing_later_than_the_moment_changes_an_answer(
    tiny_store: TokenStore, asked: tuple[Asks, Asks, Asks], name: str, task: str
) -> None:
    baseline = BASELINES[name](tiny_store, 0)
    baseline.fit()
    part = of_task(asked, task)
    with_history = [one for one in part.test if one.moment.cut - one.moment.start > 4]
    reacted = 0
    for one in with_history[:6]:
        ask = Questions(train=part.train, validation=part.validation, test=[one])
        before = baseline.answer(all_tasks()[task], ask)
        earlier_E = tiny_store.event_time_E < one.moment.time
        without_future = on(baseline, mutated(tiny_store, earlier_E))
        # The questions it calibrates on lie in the past as well and are the same.
        after = without_future.answer(all_tasks()[task], ask)
        np.testing.assert_array_equal(before.probabilities_NK, after.probabilities_NK)
        np.testing.assert_array_equal(before.better_N, after.better_N)
        past_E = np.zeros(tiny_store.n_events, bool)
        past_E[one.moment.start : one.moment.cut] = True
        other = on(baseline, mutated(tiny_store, ~past_E)).answer(all_tasks()[task], ask)
        reacted += not (
            np.array_equal(before.probabilities_NK, other.probabilities_NK)
            and np.array_equal(before.better_N, other.better_N)
        )
    assert reacted, "the check would not see a leak: no answer depends on the history at all"


def test_item_clock_counts_only_training_events_before_the_time(tiny_store: TokenStore) -> None:
    clock = ItemClock(tiny_store)
    train_E = tiny_store.event_phase_E == Phase.TRAIN
    rows = np.flatnonzero(train_E)[::97]
    for row in rows:
        item, time = int(tiny_store.event_item_E[row]), int(tiny_store.event_time_E[row])
        before_E = train_E & (tiny_store.event_item_E == item) & (tiny_store.event_time_E < time)
        values = tiny_store.event_value_E[before_E].astype(np.float64)
        count, mean, _ = clock.at(item, time)
        assert count == len(values)  # its own event is not among them
        assert mean == pytest.approx((values.sum() + 5 * clock.global_mean) / (len(values) + 5))
    last = tiny_store.event_time_E.max() + 1
    everything = np.array([clock.at(item, int(last))[0] for item in range(tiny_store.n_items)])
    np.testing.assert_array_equal(everything, tiny_store.statistics.item_count_N)


def test_co_occurrence_equals_a_loop_over_pairs() -> None:
    sequences = [[0, 1, 2, 1], [3, 0], [2]]
    data = SequenceData.from_events(
        n_items=4,
        user_offsets_U1=np.array([0, 4, 6, 7]),
        item_E=np.concatenate(sequences).astype(np.int32),
        time_E=np.arange(7),
        phase_E=np.zeros(7, np.int8),
    )
    expected = np.zeros((4, 4))
    for items in sequences:
        for i in range(len(items)):
            for j in range(i + 1, min(i + 3, len(items))):  # a window of 2
                expected[items[i], items[j]] += 1 / (j - i)
                expected[items[j], items[i]] += 1 / (j - i)
    got = co_occurrences(data, 2)
    np.testing.assert_allclose(got.toarray(), expected)
    popularity = np.array([2, 2, 2, 1])
    scale = (popularity + 1.0) ** -0.5
    near = normalised(got, popularity, 0.5, 1.0).toarray()
    np.testing.assert_allclose(near, expected * scale[:, None] * scale)


def test_alternating_least_squares_solves_each_ridge_regression() -> None:
    rng = np.random.default_rng(1)
    factors_ND = rng.normal(size=(9, 3))
    rows, columns = np.array([0, 0, 0, 2, 2]), np.array([1, 4, 8, 0, 1])
    values = np.array([1.0, 0.0, -2.0, 0.5, 3.0])
    solved_BD = _solve(_matrix(values, rows, columns, (3, 9)), factors_ND, 0.2)
    for row in range(3):
        known = rows == row
        x = factors_ND[columns[known]]
        ridge = 0.2 * max(1, known.sum()) * np.eye(3)
        expected = np.linalg.solve(x.T @ x + ridge, x.T @ values[known])
        np.testing.assert_allclose(solved_BD[row], expected)


def test_the_catalog_leaves_the_history_out_and_a_stranger_is_a_miss(
    tiny_store: TokenStore, asked: tuple[Asks, Asks, Asks]
) -> None:
    score_N = np.array([0.9, 0.5, 0.5, 0.7, -np.inf])
    assert place_in_catalog(score_N, 1, np.array([], np.int64)) == (2, 1, 4)
    assert place_in_catalog(score_N, 1, np.array([0, 2])) == (1, 0, 2)
    assert place_in_catalog(score_N, 4, np.array([0])) == (3, 0, 3)
    # What the user has met is a miss for every scorer alike.
    assert place_in_catalog(score_N, 1, np.array([1])) == (3, 0, 3)
    with pytest.raises(ValueError, match="NaN"):
        place_in_catalog(np.array([np.nan, 1.0]), 1, np.array([], np.int64))
    one = asked[2]["next_item_title"][-1]
    first = tiny_store.user_offsets_U1[one.moment.user]
    met = set(tiny_store.event_item_E[first : one.moment.cut].tolist())
    assert set(seen_items(tiny_store, one)) == met
    known = set(tiny_store.statistics.known_items.tolist())
    assert excluded_items(tiny_store, [one]).tolist() == [len(met & known)]


def test_choosing_keeps_the_order_of_scores_with_and_without_questions_to_fit_on() -> None:
    scores = [np.array([0.1, 3.0, 0.5]), np.array([2.0, 1.0])]
    for rows in (choose([], [], scores),):
        assert [int(row.argmax()) for row in rows] == [1, 0]
        assert all(row.sum() == pytest.approx(1.0) for row in rows)


def test_a_wrong_name_lists_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no baseline is called 'item_kn'; nearest: item_knn"):
        find_baseline("item_kn")
    with pytest.raises(ValueError, match="a baseline called 'item_knn' already"):
        register_baseline(BASELINES["item_knn"])
