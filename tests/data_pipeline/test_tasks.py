"""The catalogue, and each family's questions against the corpus they are asked of."""

from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

from data_pipeline.draws import Draws
from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.splits import Phase
from data_pipeline.statistics import compute_statistics
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, View, all_tasks, applicable, register_task, task_named
from data_pipeline.tasks.options import category_options, decade_options
from data_pipeline.tasks.view import Shelf
from data_pipeline.tree import Moment, Question
from data_pipeline.verbalize import DAY

SAMPLED = (
    "will_watch",
    "next_item_choice",
    "sequence_completion",
    "odd_one_out",
    "tag_suggestion",
    "review_choice",
    "complex_query_search",
    "query_completion",
    "query_suggestion",
    "search_match_sampled",
    "linked_items",
)


@pytest.fixture(scope="module")
def shelf(tiny_store: TokenStore) -> Shelf:
    return Shelf(tiny_store)


def a_view(shelf: Shelf, *, index: int = 0, phase: Phase = Phase.TRAIN, window: int = 12) -> View:
    draws = Draws(1, index)
    moments = Moments(shelf.store, history_events=12, window=window)
    moment = moments.training(index, 0, "full", draws)
    return View(shelf, moment, phase, draws, "plain")


@pytest.mark.parametrize("task", all_tasks().values(), ids=lambda task: task.name)
def test_each_task_has_phrasings_labels_and_a_place_in_the_catalogue(task: Task) -> None:
    phrasings = (*task.instructions, *task.held_out_instructions)
    assert len(task.instructions) >= 4
    assert len(task.held_out_instructions) >= 1
    assert len({p.lower() for p in phrasings}) == len(phrasings)
    assert all("\n" not in p and p.format(item="x", items="y") for p in phrasings)
    assert task.code[0] == "T"
    assert task.baselines
    assert task.is_written == (not task.labels)
    assert len(set(task.labels)) == len(task.labels)
    # A metric over sampled candidates says so, and only such a metric does.
    assert ("sampled" in task.metric) == (task.name in SAMPLED)


def test_there_are_sixteen_tasks_for_a_corpus_of_ratings(tiny_store: TokenStore) -> None:
    applies = [name for name, task in all_tasks().items() if applicable(task, tiny_store) is None]
    assert len(applies) >= 16
    assert len({all_tasks()[name].code for name in applies}) >= 14


def test_a_task_of_ones_own(tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipeline import tasks

    class Odd(Task):
        name: ClassVar[str] = "odd_item"
        code = "X01"
        family = "mine"
        metric = "auc"
        instructions: ClassVar[tuple[str, ...]] = ("Is the row odd?",)
        held_out_instructions = ("An odd row?",)

        def ask(self, view: View, subject: int) -> Question:
            item = view.item(subject)
            return Question(
                label=item % 2, pieces=(view.line(item),), candidates=(item,), n_choices=2
            )

    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    register_task(Odd())
    with pytest.raises(ValueError, match="'odd_item' already"):
        register_task(Odd())
    mixture = Mixture([tiny_store], MixtureConfig(tasks={"odd_item": 1.0}), seed=0)
    for branch in mixture[0].branches:
        assert branch.question.label == tiny_store.event_item_E[branch.subject] % 2


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'lik'(?s:.)*like"):
        task_named("lik")


def test_like_leaves_out_the_middle(shelf: Shelf) -> None:
    answers = Counter()
    for index in range(100):
        view = a_view(shelf, index=index)
        for row in view.window:
            question = all_tasks()["like"].ask(view, row)
            value = view.value(row)
            if question is None:
                answers["none"] += 1
                assert 2 < value < 4
            else:
                answers[question.label] += 1
                assert (value >= 4) == bool(question.label)
    assert min(answers[0], answers[1], answers["none"]) > 20


def test_above_own_mean_compares_with_the_whole_history(shelf: Shelf) -> None:
    asked = 0
    for index in range(60):
        view = a_view(shelf, index=index)
        first = shelf.store.user_offsets_U1[view.moment.user]
        past = shelf.store.event_value_E[first : view.moment.cut]
        for row in view.window:
            question = all_tasks()["above_own_mean"].ask(view, row)
            if question is not None:
                asked += 1
                assert question.label == int(view.value(row) > past.mean())
                assert len(past) >= 3
    assert asked > 50


def test_above_item_mean_compares_with_what_was_known_of_the_item(shelf: Shelf) -> None:
    store, labels = shelf.store, Counter[int]()
    trained = store.event_phase_E == Phase.TRAIN
    for index in range(60):
        view = a_view(shelf, index=index)
        for row in view.window:
            question = all_tasks()["above_item_mean"].ask(view, row)
            of_item = trained & (store.event_item_E == view.item(row))
            assert (question is None) == (of_item.sum() < 5)
            if question is not None:
                mean = store.statistics.item_mean_N[view.item(row)]
                assert abs(mean - store.event_value_E[of_item].mean()) < 1
                assert question.label == int(view.value(row) > mean)
                labels[question.label] += 1
    assert min(labels[0], labels[1]) > 20


def test_future_decade_is_the_one_that_stands_out(shelf: Shelf) -> None:
    years, shares = shelf.number("year"), shelf.decade_shares("year")
    answers = Counter[str]()
    for index in range(60):
        view = a_view(shelf, index=index)
        question = all_tasks()["future_decade"].ask(view, view.moment.cut)
        if question is None:
            continue
        rows = view.until(30 * DAY)
        met = [
            int(years[view.item(row)]) // 10 for row in rows if np.isfinite(years[view.item(row)])
        ]
        excess = {
            decade: (met.count(decade) - share * len(met)) / np.sqrt(share * len(met) + 1)
            for decade, share in shares.items()
        }
        piece = question.pieces[2 * question.label + 1]
        answer = shelf.store.encoder.decode(shelf.store.piece(piece)).strip()
        assert answer == f"{max(excess, key=excess.__getitem__)}0s"
        answers[answer] += 1
    assert len(answers) > 1


def test_negatives_are_known_unseen_and_drawn_by_popularity(shelf: Shelf) -> None:
    counts: Counter[int] = Counter()
    for index in range(400):
        view = a_view(shelf, index=index)
        drawn = view.negatives(5)
        assert len(set(drawn)) == 5
        assert view.seen.isdisjoint(drawn)
        counts.update(drawn)
    known = shelf.known_items
    assert set(counts) <= set(known.tolist())
    popularity = shelf.statistics.item_count_N[known]
    drawn_often = np.array([counts[item] for item in known.tolist()])
    # The tiny corpus has nearly equal counts, so only the direction can be seen.
    half = popularity > np.median(popularity)
    assert drawn_often[half].mean() > 0.8 * drawn_often[~half].mean()


def test_a_choice_of_next_items_does_not_give_itself_away(shelf: Shelf) -> None:
    """The right letter is uniform, and the right item is as known as the others."""
    letters: Counter[int] = Counter()
    for index in range(600):
        view = a_view(shelf, index=index)
        question = all_tasks()["next_item_choice"].ask(view, view.moment.cut)
        if question is not None:
            letters[question.label] += 1
            counts = shelf.statistics.item_count_N[list(question.candidates)]
            assert counts.min() > 0
    expected = sum(letters.values()) / 10
    assert all(abs(letters[i] - expected) < 5 * expected**0.5 for i in range(10))


def test_pairs_differ_by_half_the_scale_and_either_order_comes(shelf: Shelf) -> None:
    labels: Counter[int] = Counter()
    for index in range(200):
        view = a_view(shelf, index=index)
        for row in view.window:
            question = all_tasks()["pairwise"].ask(view, row)
            if question is not None:
                assert question.gains is not None
                first, second = question.gains
                assert abs(first - second) >= 2
                assert question.label == int(second > first)
                labels[question.label] += 1
    assert 0.4 < labels[0] / (labels[0] + labels[1]) < 0.6


def test_best_of_list_has_one_best(shelf: Shelf) -> None:
    asked = 0
    for index in range(100):
        view = a_view(shelf, index=index)
        for row in view.window:
            question = all_tasks()["best_of_list"].ask(view, row)
            if question is not None:
                asked += 1
                assert question.gains is not None
                best = max(question.gains)
                assert question.gains.count(best) == 1
                assert question.gains[question.label] == best
    assert asked > 20


def test_category_options_hold_exactly_one_that_is_right(shelf: Shelf) -> None:
    names = shelf.store.categories("genres").names
    for index in range(100):
        view = a_view(shelf, index=index)
        right = view.categories("genres", view.item(view.moment.cut))
        question = category_options(view, "genres", right, 4)
        assert question is not None
        texts = [
            shelf.store.encoder.decode(shelf.store.piece(piece)).strip()
            for piece in question.pieces[1::2]
        ]
        assert [t for t in texts if names.index(t) in right] == [texts[question.label]]
        assert len(set(texts)) == 4
        assert question.prior is not None
        assert len(question.prior) == 4


def test_decade_options_name_the_items_decade(shelf: Shelf) -> None:
    years = shelf.store.number("year")
    for index in range(60):
        view = a_view(shelf, index=index)
        item = view.item(view.moment.cut)
        question = decade_options(view, "year", item, 4)
        assert question is not None
        piece = shelf.store.piece(question.pieces[2 * question.label + 1])
        assert shelf.store.encoder.decode(piece).strip() == f"{int(years[item]) // 10}0s"


def test_future_taste_stays_inside_the_phase(shelf: Shelf) -> None:
    """What `until` returns never crosses the end of training time."""
    for index in range(100):
        view = a_view(shelf, index=index)
        rows = view.until(10**12)
        assert (shelf.store.event_phase_E[rows.start : rows.stop] == Phase.TRAIN).all()
        stop = shelf.store.train_stops_U[view.moment.user]
        assert rows.stop == stop


def test_applicable_says_what_is_missing(tiny_store: TokenStore) -> None:
    class NeedsPlot(type(all_tasks()["impute_genre"])):  # type: ignore[misc]
        needs = frozenset({"item.plot"})

    assert applicable(NeedsPlot(), tiny_store) == "its items have no field 'plot'"


def test_similar_pairs_follow_the_lift_of_co_likes() -> None:
    """Two camps of users: items liked within a camp go together, across camps they do not."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    users, items = [], []
    for user in range(200):
        for item in range(20):
            if rng.random() < (0.9 if item % 2 == user % 2 else 0.1):
                users.append(user)
                items.append(item)
    statistics = compute_statistics(
        user_E=np.array(users, np.int32),
        item_E=np.array(items, np.int32),
        value_E=np.full(len(users), 5.0, np.float32),
        tag_A=np.empty(0, np.int32),
        n_users=200,
        n_items=20,
        n_tags=0,
        values=(1.0, 5.0),
        like_at_least=4.0,
    )
    pairs, alike = statistics.pairs_P2, statistics.pair_alike_P
    assert len(pairs) > 10
    assert alike.mean() == 0.5
    assert ((pairs[:, 0] % 2 == pairs[:, 1] % 2) == alike).mean() == 1.0


def test_a_view_of_nobody_has_no_window(shelf: Shelf) -> None:
    nobody = Moment(user=-1, start=0, cut=0, stop=0, time=0)
    view = View(shelf, nobody, Phase.TEST, Draws(0, 0), "plain")
    assert list(view.window) == []
    assert not view.training


def test_choices_by_name_are_answered_by_the_options_own_words(tiny_store: TokenStore) -> None:
    config = MixtureConfig(tasks={"impute_genre": 1, "next_decade": 1}, choice_answers="name")
    mixture = Mixture([tiny_store], config, seed=0)
    decode = tiny_store.encoder.decode
    branches = [branch for index in range(30) for branch in mixture[index].branches]
    assert {branch.task for branch in branches} == {0, 1}
    for branch in branches:
        lines = decode(branch.tokens).splitlines()
        options = [line.removeprefix("Option: ") for line in lines if line.startswith("Option: ")]
        assert [decode([choice]).strip() for choice in branch.choices] == options
        assert decode(branch.answer).strip() == options[branch.question.label]


def test_choices_by_name_fall_back_to_letters_where_a_name_takes_several_tokens(
    tiny_store: TokenStore,
) -> None:
    shelf = Shelf(tiny_store, "name")
    assert shelf.name_tokens("genres", tiny_store.categories("genres").names)
    assert not shelf.name_tokens("other", ["a name that no vocabulary holds whole"])
    assert not Shelf(tiny_store).name_tokens("genres", tiny_store.categories("genres").names)
