"""Questions about what people type."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.build import compile_store
from data_pipeline.corpus import Field, write_corpus
from data_pipeline.draws import Draws
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import View, all_tasks, applicable
from data_pipeline.tasks.base import own_subjects
from data_pipeline.tasks.view import Shelf
from data_pipeline.tree import NOBODY, Question

JUDGED = ("search_relevance", "search_match", "query_ranking", "query_suggestion")
CONFIG = MixtureConfig(
    tasks=dict.fromkeys((*JUDGED, "personalised_search"), 1.0), targets_per_tree=8
)


@pytest.fixture(scope="module")
def shelf(rich_store: TokenStore) -> Shelf:
    return Shelf(rich_store)


def asked(shelf: Shelf, name: str, phase: Phase = Phase.TRAIN) -> Iterator[tuple[int, Question]]:
    task = all_tasks()[name]
    for index in range(3):
        view = View(shelf, NOBODY, phase, Draws(1, index), "plain")
        for subject in own_subjects(task, view):
            question = task.ask(view, int(subject))
            if question is not None:
                yield int(subject), question


def text(shelf: Shelf, piece: int) -> str:
    return shelf.store.encoder.decode(shelf.store.piece(piece)).strip()


def genre_of(shelf: Shelf, query: int) -> str:
    assert shelf.store.queries is not None
    return shelf.store.queries.texts[query].split()[0]


def genres(shelf: Shelf, item: int) -> set[str]:
    category = shelf.store.categories("genres")
    return {category.names[code].lower() for code in category.of(item)}


@pytest.mark.parametrize("name", JUDGED)
def test_a_query_is_asked_about_in_its_own_phase_alone(shelf: Shelf, name: str) -> None:
    queries = shelf.store.queries
    assert queries is not None
    seen: dict[Phase, set[int]] = {}
    for phase in (Phase.TRAIN, Phase.VALIDATION, Phase.TEST):
        found = {question.query for _, question in asked(shelf, name, phase)}
        seen[phase] = {query for query in found if query is not None}
        assert seen[phase]
        assert {queries.phase_Q[query] for query in seen[phase]} == {phase}
    texts = [{queries.texts[query] for query in found} for found in seen.values()]
    assert not texts[0] & texts[2]
    assert not texts[0] & texts[1]


def test_relevance_is_the_published_label_and_match_leaves_out_the_middle(shelf: Shelf) -> None:
    letters: Counter[str] = Counter()
    for _, question in asked(shelf, "search_relevance"):
        item, query = question.candidates[0], question.query
        assert query is not None
        assert question.pieces[1] == shelf.store.piece_of("query", query)
        fits = genre_of(shelf, query) in genres(shelf, item)
        letter = all_tasks()["search_relevance"].labels[question.label]
        assert (letter in "ES") == fits
        letters[letter] += 1
    assert set(letters) == set("ESCI")
    for _, question in asked(shelf, "search_match"):
        assert question.value is not None
        assert question.label == int(question.value >= 0.75)
        assert question.value == 1.0 or question.value <= 0.25
    for _, question in asked(shelf, "substitute_detection", Phase.TEST):
        assert question.value is not None
        assert question.label == int(0.05 < question.value < 0.5)


def test_a_ranking_has_one_best_and_its_grades(shelf: Shelf) -> None:
    table = shelf.store.judgements
    assert table is not None
    sizes: set[int] = set()
    letters: Counter[int] = Counter()
    for subject, question in asked(shelf, "query_ranking"):
        assert question.gains is not None
        assert question.query is not None
        assert question.query == table.query_J[subject]
        assert question.candidates[question.label] == table.item_J[subject]
        assert question.gains.count(max(question.gains)) == 1
        assert question.gains[question.label] == max(question.gains)
        grades = shelf.judged.grades_of(question.query)
        assert [grades[item] for item in question.candidates] == list(question.gains)
        assert len(set(question.candidates)) == question.n_choices
        sizes.add(question.n_choices)
        letters[question.label] += 1
    assert max(sizes) == 10
    assert min(sizes) >= 3
    assert len(letters) == 10


def test_wrong_queries_and_items_were_never_judged_together(shelf: Shelf) -> None:
    table = shelf.store.judgements
    assert table is not None
    pairs = set(zip(table.query_J.tolist(), table.item_J.tolist(), strict=True))
    n = 0
    for subject, question in asked(shelf, "query_suggestion"):
        item = int(table.item_J[subject])
        options = [text(shelf, piece) for piece in question.pieces[3::2]]
        assert shelf.store.queries is not None
        queries = [list(shelf.store.queries.texts).index(option) for option in options]
        assert [(query, item) in pairs for query in queries] == [
            place == question.label for place in range(len(queries))
        ]
        assert question.query == queries[question.label]
        n += 1
    assert n > 20
    for _, question in asked(shelf, "complex_query_search", Phase.TEST):
        together = [(question.query, item) in pairs for item in question.candidates]
        assert together == [place == question.label for place in range(len(together))]


def test_completions_begin_as_what_was_typed(shelf: Shelf) -> None:
    table, queries = shelf.store.judgements, shelf.store.queries
    assert table is not None
    assert queries is not None
    n = 0
    for subject, question in asked(shelf, "query_completion"):
        item, right = int(table.item_J[subject]), int(table.query_J[subject])
        typed = text(shelf, question.pieces[2])
        options = [text(shelf, piece) for piece in question.pieces[4::2]]
        assert typed == f"Typed so far: {queries.texts[right][:2].casefold()}"
        assert options[question.label] == queries.texts[right]
        assert len(set(options)) == question.n_choices == len(options)
        judged = {queries.texts[query] for query in shelf.judged.queries_of(item)}
        for option in options:
            assert typed.endswith(f": {option[:2].casefold()}")
            assert (option in judged) == (option == options[question.label])
        n += 1
    assert n > 20


def test_a_search_is_asked_behind_everything_that_the_trunk_shows(shelf: Shelf) -> None:
    store, task = shelf.store, all_tasks()["personalised_search"]
    searches = store.searches
    assert searches is not None
    n = 0
    for phase in (Phase.TRAIN, Phase.TEST):
        labels: Counter[int] = Counter()
        for user in range(store.n_users):
            moments = Moments(store, history_events=12, window=6)
            for moment in moments.evaluation(user, phase, "full"):
                view = View(shelf, moment, phase, Draws(1, user), "plain")
                for row in own_subjects(task, view):
                    question = task.ask(view, int(row))
                    assert searches.user_S[row] == user
                    assert searches.phase_S[row] == phase
                    shown = store.event_time_E[moment.start : moment.cut]
                    assert not len(shown) or shown.max() < searches.time_S[row]
                    if moment.stop < store.user_offsets_U1[user + 1]:
                        assert searches.time_S[row] < store.event_time_E[moment.stop]
                    assert question is not None
                    clicked = searches.actions[searches.action_S[row]] == "clicked"
                    assert question.label == int(clicked)
                    assert question.candidates == (searches.item_S[row],)
                    labels[question.label] += 1
        assert min(labels[0], labels[1]) > 5
        n += sum(labels.values())
    assert n > 100


def test_mixtures_and_evaluations_ask_all_of_them(rich_store: TokenStore) -> None:
    mixture = Mixture([rich_store], CONFIG, seed=1)
    trained = Counter(
        mixture.tasks[branch.task].name for index in range(60) for branch in mixture[index].branches
    )
    assert set(trained) == set(CONFIG.tasks)
    names = (*CONFIG.tasks, "substitute_detection", "complex_query_search")
    evaluation = EvaluationSet(
        rich_store,
        [all_tasks()[name] for name in names],
        phase=Phase.TEST,
        config=CONFIG,
        seed=1,
        max_targets=30,
    )
    assert min(evaluation.targets.values()) > 0
    assert max(evaluation.targets.values()) <= 30


def test_what_a_corpus_lacks_is_said(tiny_store: TokenStore) -> None:
    reasons = {name: applicable(all_tasks()[name], tiny_store) for name in CONFIG.tasks}
    assert reasons["search_match"] == "it has no judged queries"
    assert reasons["personalised_search"] == "it has no searches"


@pytest.fixture(scope="module")
def judged_only(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """A shop without users: products of six brands, queries that name a brand, one grade."""
    folder = tmp_path_factory.mktemp("judged")
    n, brands = 60, [f"Brand{letter}" for letter in "ABCDEF"]
    items = pa.table(
        {
            "item_id": [f"p{i}" for i in range(n)],
            "title": [f"{brands[i % 6]} lamp {i}" for i in range(n)],
            "brand": [brands[i % 6] for i in range(n)],
            "color": [f"shade {i % 7}" for i in range(n)],
        }
    )
    queries = pa.table(
        {"query_id": [f"q{i}" for i in range(40)], "text": [f"lamp number {i}" for i in range(40)]}
    )
    rows = [(f"q{i}", f"p{(7 * i + k) % n}") for i in range(40) for k in range(2)]
    judgements = pa.table(
        {
            "query_id": [query for query, _ in rows],
            "item_id": [item for _, item in rows],
            "grade": pa.array(np.ones(len(rows)), pa.float32()),
        }
    )
    corpus = write_corpus(
        folder / "corpus",
        name="lamps",
        items=items,
        users=pa.table({"user_id": pa.array([], pa.string())}),
        events=pa.table(
            {
                "user_id": pa.array([], pa.string()),
                "item_id": pa.array([], pa.string()),
                "timestamp": pa.array([], pa.timestamp("ms", "UTC")),
                "action": pa.array([], pa.string()),
            }
        ),
        item_fields=(Field(name="brand", kind="category"), Field(name="color", kind="category")),
        queries=queries,
        judgements=judgements,
        item_noun="product",
        source="made by the tests",
        licence="CC0-1.0",
    )
    return compile_store(corpus, "train:512", folder / "store")


def test_a_corpus_of_judged_queries_alone_is_trained_and_evaluated(judged_only: TokenStore) -> None:
    applies = {name for name, task in all_tasks().items() if applicable(task, judged_only) is None}
    assert {"query_suggestion", "complex_query_search", "impute_field"} <= applies
    assert not applies & {"search_match", "query_ranking", "search_relevance"}
    chosen = {"search_match_sampled": 1.0, "query_suggestion": 1.0, "impute_field": 1.0}
    mixture = Mixture([judged_only], MixtureConfig(tasks=chosen, targets_per_tree=4), seed=0)
    trees = [mixture[index] for index in range(20)]
    assert {branch.task for tree in trees for branch in tree.branches} == {0, 1, 2}
    assert {tree.moment for tree in trees} == {NOBODY}
    names = (*chosen, "complex_query_search", "impute_held_field")
    evaluation = EvaluationSet(
        judged_only,
        [all_tasks()[name] for name in names],
        phase=Phase.TEST,
        config=CONFIG,
        seed=1,
        max_targets=30,
    )
    assert min(evaluation.targets.values()) > 0
    judged = Shelf(judged_only).judged
    assert judged.relevant_J.all()


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.TEST])
def test_what_nobody_judged_is_the_wrong_half_of_a_match(
    judged_only: TokenStore, phase: Phase
) -> None:
    shelf = Shelf(judged_only)
    table = shelf.judged.table
    task = all_tasks()["search_match_sampled"]
    of_phase = set(table.item_J[table.phase_J == phase].tolist())
    labels: Counter[int] = Counter()
    for subject, question in asked(shelf, task.name, phase):
        query, (item,) = int(table.query_J[subject]), question.candidates
        assert table.phase_J[subject] == phase
        assert question.query == query
        assert (item in shelf.judged.grades_of(query)) == bool(question.label)
        assert item in of_phase
        if question.label:
            assert item == table.item_J[subject]
        labels[question.label] += 1
    assert min(labels[0], labels[1]) > 0.25 * labels.total()
    assert task.metric == "sampled_auc"


def test_grades_are_not_drawn_where_they_are_known(
    rich_store: TokenStore, tiny_store: TokenStore
) -> None:
    task = all_tasks()["search_match_sampled"]
    assert applicable(task, rich_store) == "its judgements are of several grades"
    assert applicable(task, tiny_store) == "it has no judged queries"
