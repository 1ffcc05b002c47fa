"""Questions about tags, links, reviews and fields of records."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_corpus import tiny_tables

from data_pipeline.build import compile_store
from data_pipeline.corpus import Field, write_corpus
from data_pipeline.draws import Draws
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.store_tables import Names, Queries
from data_pipeline.tasks import View, all_tasks, applicable
from data_pipeline.tasks.base import own_subjects
from data_pipeline.tasks.judged import Tagged
from data_pipeline.tasks.needs_tables import fields_to_impute
from data_pipeline.tasks.view import Shelf
from data_pipeline.tree import NOBODY, Question

CONFIG = MixtureConfig(targets_per_tree=8, history_events=12)
ODD_NAMES = (
    "<|endoftext|>",
    "two | fields: one",
    "a\nbroken line",
    "千と千尋の神隠し 🎬",
    "42",
    "A: B",
    "  spaces around  ",
)


@pytest.fixture(scope="module")
def shelf(rich_store: TokenStore) -> Shelf:
    return Shelf(rich_store)


def asked(shelf: Shelf, name: str, phase: Phase = Phase.TRAIN) -> Iterator[tuple[int, Question]]:
    task = all_tasks()[name]
    for index in range(4):
        view = View(shelf, NOBODY, phase, Draws(2, index), "plain")
        for subject in own_subjects(task, view):
            question = task.ask(view, int(subject))
            if question is not None:
                yield int(subject), question


def options(shelf: Shelf, question: Question, first: int) -> list[str]:
    decode, piece = shelf.store.encoder.decode, shelf.store.piece
    return [decode(piece(p)).strip() for p in question.pieces[first + 1 :: 2]]


def test_a_suggested_tag_was_given_and_the_others_were_not(shelf: Shelf) -> None:
    tags = shelf.store.tags
    assert tags is not None
    said = tags.user_A >= 0
    given = set(zip(tags.item_A[said].tolist(), tags.tag_A[said].tolist(), strict=True))
    train = said & (tags.phase_A == Phase.TRAIN)
    known = set(zip(tags.item_A[train].tolist(), tags.tag_A[train].tolist(), strict=True))
    names = list(tags.texts)
    n = 0
    for subject, question in asked(shelf, "tag_suggestion"):
        item = int(tags.item_A[subject])
        codes = [names.index(name) for name in options(shelf, question, 2)]
        assert [(item, code) in known for code in codes] == [
            place == question.label for place in range(len(codes))
        ]
        assert question.prior is not None
        assert len(question.prior) == question.n_choices == len(codes) >= 4
        n += 1
    assert n > 50
    for subject, _ in asked(shelf, "tag_suggestion", Phase.TEST):
        pair = (int(tags.item_A[subject]), int(tags.tag_A[subject]))
        assert pair in given
        assert pair not in known


def test_a_pair_belongs_to_the_phase_in_which_it_was_first_said(shelf: Shelf) -> None:
    tags = shelf.store.tags
    assert tags is not None
    tagged = Tagged(tags, None)
    rows = np.concatenate([tagged.rows(phase) for phase in Phase])
    pairs = list(zip(tags.item_A[rows].tolist(), tags.tag_A[rows].tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert (tags.user_A[rows] >= 0).all()
    for row, (item, tag) in zip(rows.tolist(), pairs, strict=True):
        same = [r for r in tags.of(item) if tags.tag_A[r] == tag and tags.user_A[r] >= 0]
        assert tags.phase_A[row] == min(tags.phase_A[same])


def test_a_tag_that_is_a_query_kept_from_training_is_not_trained_on(shelf: Shelf) -> None:
    """Its taggings say the same as the judgements that evaluation asks about."""
    tags = shelf.store.tags
    assert tags is not None
    everything = Tagged(tags, None)
    before = everything.rows(Phase.TRAIN)
    word = int(tags.tag_A[before[0]])
    for phase, kept in ((Phase.TRAIN, True), (Phase.TEST, False)):
        texts = Names([tags.texts[word].upper()])
        made = Queries(ids=Names(["q"]), texts=texts, phase_Q=np.array([phase], np.int8))
        tagged = Tagged(tags, made)
        found = tagged.rows(Phase.TRAIN)
        assert (word in tags.tag_A[found]) == kept
        assert set(tags.tag_A[before]) - {word} == set(tags.tag_A[found]) - {word}
        drawn = tagged.drawn(Draws(0, 0), frozenset(), everything.table.n_tags)
        assert (word in drawn) == kept


def test_a_relevant_tag_weighs_much_and_an_irrelevant_one_little(shelf: Shelf) -> None:
    labels: Counter[int] = Counter()
    for _, question in asked(shelf, "tag_relevance", Phase.TEST):
        assert question.value is not None
        assert question.label == int(question.value > 0.7)
        assert question.value > 0.7 or question.value < 0.2
        labels[question.label] += 1
    assert min(labels[0], labels[1]) > 50


def test_half_of_the_linked_pairs_are_links(shelf: Shelf) -> None:
    links = shelf.store.links
    assert links is not None
    pairs = set(zip(links.item_L.tolist(), links.other_L.tolist(), strict=True))
    similar = list(links.relations).index("similar")
    labels: Counter[int] = Counter()
    for subject, question in asked(shelf, "linked_items", Phase.TEST):
        assert links.relation_L[subject] == similar
        first, second = question.candidates
        assert first != second
        together = (first, second) in pairs or (second, first) in pairs
        assert together == bool(question.label)
        labels[question.label] += 1
    assert 0.4 < labels[1] / labels.total() < 0.6


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.TEST])
def test_the_other_reviews_give_the_same_verdict_on_other_items(shelf: Shelf, phase: Phase) -> None:
    store, task = shelf.store, all_tasks()["review_choice"]
    first = store.card.first_piece["review"]
    n = 0
    for user in range(store.n_users):
        for moment in Moments(store, history_events=12, window=8).evaluation(user, phase, "full"):
            view = View(shelf, moment, phase, Draws(1, user), "plain")
            for row in view.window:
                question = task.ask(view, row)
                if question is None:
                    continue
                rows = [piece - first for piece in question.pieces[4::2]]
                assert rows[question.label] == row
                assert all(len(store.piece(first + r)) for r in rows)
                assert {store.event_phase_E[r] for r in rows} == {phase}
                assert {store.event_action_E[r] for r in rows} == {store.event_action_E[row]}
                others = {store.event_item_E[r] for r in rows if r != row}
                assert store.event_item_E[row] not in others
                n += 1
    assert n > 50


@pytest.fixture(scope="module")
def staffed(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """The tiny corpus with fields of many kinds: of a name for each item, of odd names, of two."""
    folder = tmp_path_factory.mktemp("staffed")
    tables = tiny_tables()
    n = len(tables["items"])
    added: dict[str, list[Any]] = {
        "directors": [[f"Director {i % 9}"] if i % 4 else [] for i in range(n)],
        "countries": [[f"Land {i % 6}", f"Land {(i + 1) % 6}"] for i in range(n)],
        "format": [("disc", "tape")[i % 2] for i in range(n)],
        "lead_actor": [f"Somebody {i} of {i * 7 % 13}" for i in range(n)],
        "content_tags": [[ODD_NAMES[i % len(ODD_NAMES)]] for i in range(n)],
        "colour": ["black and white"] * n,
    }
    for name, values in added.items():
        tables["items"] = tables["items"].append_column(name, pa.array(values))
    fields = [
        Field(name=name, kind="categories" if isinstance(values[0], list) else "category")
        for name, values in added.items()
    ]
    tables["item_fields"] = (*tables["item_fields"], *fields)
    corpus = write_corpus(folder / "corpus", **tables)
    return Shelf(compile_store(corpus, "train:1024", folder / "store"))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("impute_field", {"directors", "lead actor", "content tags"}),
        ("impute_held_field", {"countries", "format"}),
    ],
)
def test_every_field_is_named_and_one_of_its_values_is_right(
    staffed: Shelf, name: str, fields: set[str]
) -> None:
    decode, store = staffed.store.encoder.decode, staffed.store
    assert applicable(all_tasks()[name], store) is None
    letters: Counter[tuple[str, int]] = Counter()
    for subject, question in asked(staffed, name):
        assert store.statistics.item_count_N[subject] > 0
        field = decode(store.piece(question.pieces[3])).strip()
        category = store.categories(field.replace(" ", "_"))
        own = {category.names[code] for code in category.of(subject)}
        right = [option in own for option in options(staffed, question, 4)]
        n = min(5, len(category.names))
        assert right == [place == question.label for place in range(n)]
        assert question.n_choices == n
        letters[field, question.label] += 1
    assert {field for field, _ in letters} == fields
    assert len(letters) == sum(2 if field == "format" else 5 for field in fields)
    for subject, _ in asked(staffed, name, Phase.TEST):
        assert store.statistics.item_count_N[subject] == 0


def test_odd_names_of_values_leave_prompts_as_the_tokenizer_reads_them(staffed: Shelf) -> None:
    encoder = staffed.store.encoder
    mixture = Mixture([staffed.store], MixtureConfig(tasks={"impute_field": 1.0}), seed=0)
    seen = set[str]()
    for index in range(8):
        tree = mixture[index]
        for branch in tree.branches:
            ids = np.concatenate([tree.trunk, branch.tokens, branch.answer])
            assert encoder.control_ids.isdisjoint(ids.tolist())
            prompt = encoder.decode(ids)
            np.testing.assert_array_equal(encoder.start(prompt), ids)
            lines = prompt.splitlines()
            assert [line[:2] for line in lines[-6:-1]] == ["A:", "B:", "C:", "D:", "E:"]
            seen.update(line[3:] for line in lines[-6:-1])
    assert {" ".join(name.split()) for name in ODD_NAMES} <= seen


def test_fields_that_are_kept_back_are_asked_by_no_trained_task(staffed: Shelf) -> None:
    trained = fields_to_impute(staffed.store, held=False)
    assert trained == ["directors", "lead_actor", "content_tags"]
    assert fields_to_impute(staffed.store, held=True) == ["countries", "format"]
    assert all_tasks()["impute_held_field"].tier == "T2a"


def test_evaluations_ask_all_of_them(rich_store: TokenStore) -> None:
    names = ("tag_suggestion", "tag_relevance", "linked_items", "review_choice")
    evaluation = EvaluationSet(
        rich_store,
        [all_tasks()[name] for name in names],
        phase=Phase.TEST,
        config=CONFIG,
        seed=1,
        max_targets=30,
    )
    assert min(evaluation.targets.values()) > 0
    assert max(evaluation.targets.values()) == 30


def test_what_a_corpus_lacks_is_said(tiny_store: TokenStore) -> None:
    for name, reason in {
        "tag_suggestion": "it has no tags",
        "tag_relevance": "it has no tags",
        "linked_items": "its items have no links 'similar'",
        "review_choice": "its events have no field 'review'",
        "impute_field": "its items have no category of 2 names or more that is trained on",
    }.items():
        assert applicable(all_tasks()[name], tiny_store) == reason
