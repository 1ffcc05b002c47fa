"""Questions that are answered by a text: the right texts, how they are written, and no leaks."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_pipeline.build_pieces import within_budget
from data_pipeline.corpus import Corpus
from data_pipeline.draws import Draws
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.render import Asked, BranchWriter
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.store_tables import SENTENCE_KIND
from data_pipeline.tasks import View, all_tasks, applicable
from data_pipeline.tasks.view import Shelf
from data_pipeline.tree import Branch, Question, Tree
from data_pipeline.verbalize import Budget, Verbalizer, first_sentence

TEXTS = ("explanation", "taste_summary")
CONFIG = MixtureConfig(targets_per_tree=8, history_events=12)
TITLE_WORDS = {"Wonderful", "Good", "Fair", "Weak", "Dreadful"}


@pytest.fixture(scope="module")
def trees(rich_store: TokenStore) -> list[Tree]:
    tasks = [all_tasks()[name] for name in TEXTS]
    return list(
        EvaluationSet(rich_store, tasks, phase=Phase.TEST, config=CONFIG, seed=0, max_targets=60)
    )


def branches(trees: list[Tree], task: int) -> Iterator[tuple[Tree, Branch]]:
    for tree in trees:
        for branch in tree.branches:
            if branch.task == task:
                yield tree, branch


def prompt_of(tree: Tree, branch: Branch) -> np.ndarray:
    fed = len(branch.answer) - 1
    return np.concatenate([tree.trunk, branch.tokens[: len(branch.tokens) - fed]])


# First sentences


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("I loved it. Would buy again.", "I loved it."),
        ("Really?! Yes, it broke.", "Really?! Yes, it broke."),  # one word is no reason
        ('He said "never again." And left.', 'He said "never again."'),
        ("Dr. Strange is 3.5 hours long! Too long", "Dr. Strange is 3.5 hours long!"),
        ("no end in sight", "no end in sight"),
        ("面白 映画。また見たい", "面白 映画。また見たい"),
        ("Too long… and dull", "Too long…"),
        ("", ""),
    ],
)
def test_a_sentence_ends_where_people_end_it(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_a_sentence_is_one_line_of_visible_text() -> None:
    verbalizer = Verbalizer((), (), {}, Budget())
    assert verbalizer.sentence("\n  A\x00b\tc. Then more.") == "A b c."
    assert verbalizer.sentence(" \n ") == ""


def test_sentences_are_the_users_own_and_within_their_budget(
    rich_store: TokenStore, rich_corpus: Corpus
) -> None:
    reviews = rich_corpus.events["review"].to_pylist()
    written = 0
    for row, review in enumerate(reviews):
        piece = rich_store.piece(rich_store.piece_of(SENTENCE_KIND, row))
        assert bool(len(piece)) == bool(review)
        if review:
            text = rich_store.encoder.decode(piece)
            assert text == f" {review.partition('.')[0]}.\n"
            assert len(piece) <= Budget().sentence_tokens
            written += 1
    assert written > 100


def test_a_long_sentence_is_cut_behind_a_word(rich_store: TokenStore) -> None:
    limit, encoder = Budget().sentence_tokens, rich_store.encoder
    long = " ".join(f"word{n}" for n in range(60)) + "."
    (piece,) = within_budget(encoder, [Verbalizer((), (), {}, Budget()).sentence(long)], limit)
    assert limit / 2 < len(piece) <= limit
    text = encoder.decode(piece)
    assert text.startswith(" word0 ")
    assert text.endswith("\n")
    assert set(text.split()) < set(long.split())


# Explanation


def test_an_explanation_is_the_first_sentence_of_the_review_behind_its_verdict(
    rich_store: TokenStore, rich_corpus: Corpus, trees: list[Tree]
) -> None:
    decode = rich_store.encoder.decode
    rows = list(branches(trees, 0))
    assert len(rows) > 20
    for tree, branch in rows:
        event: dict[str, Any] = rich_corpus.events.slice(branch.subject, 1).to_pylist()[0]
        assert branch.subject >= tree.moment.cut
        assert decode(branch.answer) == f" {event['review'].partition('.')[0]}.\n"
        question = decode(prompt_of(tree, branch)[len(tree.trunk) :])
        candidate = question.splitlines()[-2]
        assert candidate.startswith("Candidate: ")
        assert candidate.endswith(f"| rated {event['value']:g}")
        assert question.endswith("\nText:")


def test_an_event_without_a_sentence_is_not_asked_about(rich_store: TokenStore) -> None:
    shelf = Shelf(rich_store)
    moments = Moments(rich_store, history_events=12, window=16)
    for index in range(20):
        draws = Draws(1, index)
        view = View(shelf, moments.training(index, 0, "full", draws), Phase.TRAIN, draws, "plain")
        for row in view.window:
            asked = all_tasks()["explanation"].ask(view, row) is not None
            assert asked == view.has_review(row)


def test_a_store_without_sentences_says_what_to_do(
    rich_store: TokenStore, tiny_store: TokenStore
) -> None:
    task = all_tasks()["explanation"]
    assert applicable(task, rich_store) is None
    assert "no field 'review'" in str(applicable(task, tiny_store))
    old = copy.copy(rich_store)
    pieces = {k: v for k, v in rich_store.card.first_piece.items() if k != SENTENCE_KIND}
    old.card = replace(rich_store.card, first_piece=pieces)
    assert "compile it again" in str(applicable(task, old))
    assert applicable(all_tasks()["review_choice"], old) is None


# Taste in one line


def asked_of(store: TokenStore, name: str) -> Iterator[tuple[View, Question]]:
    shelf = Shelf(store)
    moments = Moments(store, history_events=12, window=16)
    for index in range(80):
        draws = Draws(1, index)
        view = View(shelf, moments.training(index, 0, "full", draws), Phase.TRAIN, draws, "plain")
        (subject,) = all_tasks()[name].subjects(view) or ()
        question = all_tasks()[name].ask(view, subject)
        if question is not None:
            yield view, question


def standing_out(genres: list[list[str]], everyone: Counter[str], most: int) -> list[str]:
    """The genres over-represented by a standard deviation, the strongest first."""
    counts = Counter(genre for film in genres for genre in film)
    expected = {g: counts.total() * n / everyone.total() for g, n in everyone.items()}
    excess = {g: (counts[g] - expected[g]) / (expected[g] + 1) ** 0.5 for g in everyone}
    ordered = sorted(everyone, key=lambda genre: (-excess[genre], genre))
    return [genre for genre in ordered[:most] if excess[genre] >= 1]


def test_every_fact_follows_from_the_shown_events(
    rich_store: TokenStore, rich_corpus: Corpus
) -> None:
    films = rich_corpus.items.to_pylist()
    genres_of, year_of = [film["genres"] for film in films], [film["year"] for film in films]
    item_E, value_E = rich_store.event_item_E, rich_store.event_value_E
    train = rich_store.event_phase_E == Phase.TRAIN
    everyone = Counter(genre for item in item_E[train] for genre in genres_of[item])
    mean = np.nanmean(value_E[train].astype(np.float64))
    kinds: Counter[str] = Counter()
    for view, question in asked_of(rich_store, "taste_summary"):
        rated = [row for row in view.shown if np.isfinite(value_E[row])]
        assert len(rated) >= 5
        expected = []
        for verb, chosen, most in (
            ("likes", [row for row in rated if value_E[row] >= 4], 3),
            ("dislikes", [row for row in rated if value_E[row] <= 2], 2),
        ):
            films_of = [genres_of[item_E[row]] for row in chosen]
            expected += [f"{verb} {genre}" for genre in standing_out(films_of, everyone, most)]
        decades = Counter(int(year_of[item_E[row]]) // 10 for row in rated)
        decade, n = min(decades.items(), key=lambda pair: (-pair[1], pair[0]))
        expected += [f"mostly {decade}0s"] if 2 * n >= len(rated) else []
        difference = np.mean([float(value_E[row]) for row in rated]) - mean
        words = "high" if difference > 0 else "low"
        expected += [f"rates {'as most do' if abs(difference) < 0.4 else words}"]
        text = rich_store.encoder.decode(rich_store.gather(question.text)[0])
        assert text == f" {' | '.join(expected)}\n"
        kinds.update(fact.partition(" ")[0] for fact in expected)
        kinds.update(fact for fact in expected if fact.startswith("rates"))
    for kind in ("likes", "dislikes", "mostly", "rates high", "rates low", "rates as most do"):
        assert kinds[kind], kind


def test_taste_is_asked_for_once_at_a_moment(rich_store: TokenStore) -> None:
    config = MixtureConfig(tasks={"taste_summary": 1.0, "like": 1.0}, targets_per_tree=8)
    mixture = Mixture([rich_store], config, seed=0)
    number = [task.name for task in mixture.tasks].index("taste_summary")
    counts = [sum(b.task == number for b in mixture[index].branches) for index in range(100)]
    assert set(counts) == {0, 1}


def test_a_corpus_without_values_or_genres_has_no_summaries(rich_store: TokenStore) -> None:
    task, card = all_tasks()["taste_summary"], rich_store.card
    for changes, reason in (
        ({"like_at_least": None}, "no graded values"),
        ({"category_fields": ("studio",)}, "none of the fields genres, categories, category"),
    ):
        other = copy.copy(rich_store)
        other.card = replace(card, **changes)
        assert reason in str(applicable(task, other))


# Laws


@pytest.mark.parametrize("task", range(len(TEXTS)), ids=TEXTS)
def test_a_text_joins_its_prompt_as_the_tokenizer_joins_them(
    rich_store: TokenStore, trees: list[Tree], task: int
) -> None:
    encoder = rich_store.encoder
    start = rich_store.trunk(trees[0].moment, "plain", 1 << 20)[0][: len(rich_store._start)]
    for tree, branch in branches(trees, task):
        assert tree.trunk[: len(start)].tolist() == start.tolist()
        ids = [*tree.trunk, *branch.tokens, branch.answer[-1]]
        assert ids[len(ids) - len(branch.answer) :] == branch.answer.tolist()
        # The whole text is the answer, however many pieces it is made of.
        assert branch.answer.tolist() == rich_store.gather(branch.question.text)[0].tolist()
        text = encoder.decode(ids)
        assert encoder._plain.encode(text, add_special_tokens=False).ids == ids
        assert branch.choices.size == 0
        assert encoder.control_ids.isdisjoint(ids)


def test_the_review_of_a_target_stands_nowhere_in_its_prompt(
    rich_store: TokenStore, trees: list[Tree]
) -> None:
    decode = rich_store.encoder.decode
    for tree, branch in branches(trees, 0):
        prompt = decode(prompt_of(tree, branch))
        assert decode(branch.answer).strip() not in prompt
        assert not TITLE_WORDS & set(prompt.split())  # no word of any review


def later_events_changed(store: TokenStore, cut: int) -> TokenStore:
    """The store with other items, values and texts from a row on; statistics are frozen."""
    other = copy.copy(store)
    rng = np.random.default_rng(cut)
    other.event_item_E, other.event_value_E = store.event_item_E.copy(), store.event_value_E.copy()
    other.event_action_E = store.event_action_E.copy()
    n = store.n_events - cut
    other.event_item_E[cut:] = rng.integers(0, store.n_items, n)
    other.event_value_E[cut:] = rng.integers(1, 6, n)
    other.event_action_E[cut:] = rng.permutation(store.event_action_E[cut:])
    return other


def test_a_summary_knows_nothing_of_what_comes_after_its_moment(
    rich_store: TokenStore, trees: list[Tree]
) -> None:
    task = all_tasks()["taste_summary"]
    for tree, branch in list(branches(trees, 1))[:15]:
        other = later_events_changed(rich_store, tree.moment.cut)
        view = View(Shelf(other), tree.moment, Phase.TEST, Draws(0, 0), "plain")
        question = task.ask(view, branch.subject)
        assert question is not None
        (again,) = BranchWriter(other, [task]).write(
            [Asked(0, branch.subject, question, branch.phrasing)]
        )
        np.testing.assert_array_equal(again.tokens, branch.tokens)
        np.testing.assert_array_equal(again.answer, branch.answer)
        trunk, _ = other.trunk(tree.moment, "plain", CONFIG.max_trunk_tokens)
        np.testing.assert_array_equal(trunk, tree.trunk)


def test_the_pieces_of_a_summary_are_few_however_many_there_are(rich_store: TokenStore) -> None:
    """Millions of different summaries are made of the same facts."""
    store = TokenStore.open(rich_store.folder)
    before = len(store._constant_ids)
    texts = {question.text for _, question in asked_of(store, "taste_summary")}
    genres = len(store.categories("genres").names)
    assert len(store._constant_ids) - before <= 4 * genres + 2 * 6 + 2 * 3
    assert len(texts) > 20
