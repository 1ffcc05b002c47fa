"""Questions about impressions, outcomes, order, pace, notes and profiles: labels are the data's."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_rich import make_rich_corpus

from data_pipeline.build import compile_store
from data_pipeline.corpus import Corpus
from data_pipeline.draws import Draws
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import View, all_tasks, applicable
from data_pipeline.tasks.base import History
from data_pipeline.tasks.timeline import PACE_LABELS
from data_pipeline.tasks.view import Shelf
from data_pipeline.tree import Question
from data_pipeline.verbalize import DAY, HOUR


@pytest.fixture(scope="module")
def shelf(rich_store: TokenStore) -> Shelf:
    return Shelf(rich_store)


def asked(
    shelf: Shelf, name: str, *, moments: int = 60, history: History = "full", window: int = 16
) -> Iterator[tuple[View, int, Question]]:
    """All questions of a task over the windows of some moments of training time."""
    places = Moments(shelf.store, history_events=12, window=window)
    for index in range(moments):
        draws = Draws(1, index)
        view = View(shelf, places.training(index, 0, history, draws), Phase.TRAIN, draws, "plain")
        for row in view.window:
            question = all_tasks()[name].ask(view, row)
            if question is not None:
                yield view, row, question


def text(shelf: Shelf, pieces: tuple[int, ...]) -> str:
    ids, _ = shelf.store.gather(pieces)
    return shelf.store.encoder.decode(ids)


def event_of(corpus: Corpus, row: int) -> dict[str, object]:
    found: dict[str, object] = corpus.events.slice(row, 1).to_pylist()[0]
    return found


# Impressions


def test_clicks_are_those_of_the_log_and_their_request_is_not_in_the_trunk(
    shelf: Shelf, rich_corpus: Corpus
) -> None:
    labels: Counter[int] = Counter()
    requests = rich_corpus.events["request_id"].to_pylist()
    for view, row, question in asked(shelf, "click"):
        event = event_of(rich_corpus, row)
        assert event["action"] == ("skipped", "clicked")[question.label]
        assert event["request_id"] not in requests[view.moment.start : view.moment.cut]
        labels[question.label] += 1
    assert min(labels[0], labels[1]) > 20


def test_a_click_is_chosen_among_what_was_skipped_beside_it(
    shelf: Shelf, rich_corpus: Corpus
) -> None:
    asked_about = 0
    for view, row, question in asked(shelf, "click_of_list"):
        request = event_of(rich_corpus, row)["request_id"]
        assert view.item(row) == question.candidates[question.label]
        for item in question.candidates:
            events = [e for e in view.request(row) if view.item(e) == item]
            assert request in {event_of(rich_corpus, e)["request_id"] for e in events}
        asked_about += 1
    assert asked_about > 20


def test_clicks_alone_are_asked_about_where_items_are_shown_alone(rich_store: TokenStore) -> None:
    """A click with nothing skipped beside it is no answer, unless skips stand alone as well."""
    together = Shelf(rich_store)
    assert not together.shown_alone
    for view, row, _ in asked(together, "click", moments=20):
        assert any(view.skipped(other) for other in view.request(row))
    store = TokenStore.open(rich_store.folder)
    store.event_opens_request_E = np.ones(store.n_events, bool)
    alone = Shelf(store)
    assert alone.shown_alone
    labels = Counter(question.label for _, _, question in asked(alone, "click"))
    assert min(labels[0], labels[1]) > 20


def test_an_action_is_named_by_the_same_letter_every_time(
    shelf: Shelf, rich_corpus: Corpus
) -> None:
    actions = rich_corpus.card.actions
    assert set(shelf.action_names) == set(actions)
    for _, row, question in asked(shelf, "action", moments=30):
        assert question.n_choices == len(actions) == 3
        assert actions[question.label] == event_of(rich_corpus, row)["action"]
        lines = text(shelf, question.pieces).splitlines()[-3:]
        assert lines == [f"{letter}: {a}" for letter, a in zip("ABC", actions, strict=True)]


def test_what_was_skipped_is_no_next_choice(shelf: Shelf) -> None:
    next_things = ("next_item_choice", "next_item_title", "next_genre", "next_decade")
    for name in (*next_things, "will_watch", "sequence_completion"):
        rows = [row for _, row, _ in asked(shelf, name, moments=20)]
        assert rows
        assert not {shelf.action_names[shelf.store.event_action_E[row]] for row in rows} & {
            "skipped"
        }


# Outcomes


@pytest.mark.parametrize("name", ["recommended", "finished"])
def test_yes_and_no_are_the_fields_own(shelf: Shelf, rich_corpus: Corpus, name: str) -> None:
    labels: Counter[int] = Counter()
    for _, row, question in asked(shelf, name):
        assert event_of(rich_corpus, row)[name] == ("no", "yes")[question.label]
        labels[question.label] += 1
    assert min(labels[0], labels[1]) > 20


def test_hours_fall_into_buckets(shelf: Shelf, rich_corpus: Corpus) -> None:
    labels: Counter[int] = Counter()
    for _, row, question in asked(shelf, "hours_bucket"):
        hours = event_of(rich_corpus, row)["hours"]
        assert isinstance(hours, float)
        assert question.label == (hours >= 2) + (hours >= 20) + (hours >= 100)
        labels[question.label] += 1
    assert len(labels) >= 2
    assert text(shelf, question.pieces).splitlines()[-2:] == [
        "C: 20 to 100 hours",
        "D: over 100 hours",
    ]


def test_plays_are_compared_with_the_users_median_before_the_moment(
    shelf: Shelf, rich_corpus: Corpus
) -> None:
    labels: Counter[int] = Counter()
    plays_E = rich_corpus.events["plays"].to_numpy()
    for view, row, question in asked(shelf, "plays_against_median"):
        past = plays_E[shelf.store.user_offsets_U1[view.moment.user] : view.moment.cut]
        median = np.median(past[np.isfinite(past)])
        words = "low" if plays_E[row] <= median / 2 else "medium"
        words = "high" if plays_E[row] >= 2 * median else words
        assert ("low", "medium", "high")[question.label] == words
        labels[question.label] += 1
    assert len(labels) == 3


def test_examples_come_from_the_trunks_history_with_their_own_outcome(
    shelf: Shelf, rich_corpus: Corpus
) -> None:
    titles = shelf.store.titles
    seen = 0
    for view, _, question in asked(shelf, "finished", moments=20):
        for line in text(shelf, question.pieces).splitlines()[:-1]:
            told, title = line.removeprefix("Earlier, ").split(": ", 1)
            rows = [
                row
                for row in range(view.moment.start, view.moment.cut)
                if title.startswith(titles[view.item(row)])
            ]
            assert told.lower() in {event_of(rich_corpus, row)["finished"] for row in rows}
            seen += 1
    assert seen > 50


def test_taste_carries_over_from_items_of_other_categories(shelf: Shelf) -> None:
    genres = shelf.store.categories("genres")
    row_of = {title: row for row, title in enumerate(shelf.store.titles)}
    labels: Counter[int] = Counter()
    for view, row, question in asked(shelf, "cross_domain_like", history="none"):
        assert (view.value(row) >= 4) == bool(question.label)
        own = set(genres.of(view.item(row)))
        lines = text(shelf, question.pieces).splitlines()[:-1]
        assert 3 <= len(lines) <= 6
        for line in lines:
            told, _, record = line.partition(": ")
            item = row_of[record.split(" (")[0]]
            assert own.isdisjoint(genres.of(item))
            values = [view.value(e) for e in view.past if view.item(e) == item]
            assert any((v >= 4) if told == "Liked" else (v <= 2) for v in values)
        labels[question.label] += 1
    assert min(labels[0], labels[1]) > 10


# Order and pace


def test_a_gap_shows_what_follows_it_and_offers_what_is_missing(shelf: Shelf) -> None:
    letters: Counter[int] = Counter()
    for view, row, question in asked(shelf, "sequence_completion", moments=150):
        lines = text(shelf, question.pieces).splitlines()
        before = [line for line in lines if line.startswith("Before:")]
        after = [line for line in lines if line.startswith("After:")]
        assert len(before) == row - view.moment.cut
        assert lines.index("Missing: one") == len(before)
        assert 1 <= len(after) <= 3
        missing = shelf.store.titles[view.item(row)]
        assert not any(missing in line for line in after)
        assert question.candidates[question.label] == view.item(row)
        letters[question.label] += 1
    assert len(letters) == 10


def test_the_pace_is_the_time_to_the_next_instant(shelf: Shelf) -> None:
    time_E = shelf.store.event_time_E
    bounds = dict(zip(PACE_LABELS, (HOUR, DAY, 7 * DAY, 30 * DAY, 2**62), strict=True))
    labels: Counter[int] = Counter()
    for view, row, question in asked(shelf, "time_to_next"):
        later = time_E[row : view.moment.stop]
        wait = later[later > time_E[row]].min() - time_E[row]
        assert PACE_LABELS[question.label] == next(w for w, b in bounds.items() if wait <= b)
        labels[question.label] += 1
    assert labels


def test_the_odd_one_is_of_another_user_and_as_popular(shelf: Shelf) -> None:
    letters: Counter[int] = Counter()
    for view, _, question in asked(shelf, "odd_one_out", moments=150, history="none"):
        odd = question.candidates[question.label]
        assert odd not in view.seen
        assert len(set(question.candidates)) == 5
        own = set(question.candidates) - {odd}
        assert own <= {view.item(row) for row in view.window}
        letters[question.label] += 1
    assert min(letters.values()) > 0.1 * sum(letters.values())


# Notes


def test_a_program_agrees_with_the_note(shelf: Shelf) -> None:
    genres, years = shelf.store.categories("genres"), shelf.store.number("year")
    shapes: Counter[tuple[bool, bool]] = Counter()
    for _, _, question in asked(shelf, "slate_with_note", moments=40, window=24):
        assert question.gains is not None
        note = text(shelf, question.pieces).splitlines()[0]
        assert note.startswith("Note: only ")
        wanted = note.removeprefix("Note: only ").removesuffix(" first, then by taste.")
        named, _, before = wanted.partition(" from before the ")
        genre = named.removesuffix("films").strip()
        for item, gain in zip(question.candidates, question.gains, strict=True):
            fits = not genre or genre in [genres.names[c] for c in genres.of(item)]
            fits &= not before or years[item] < int(before.removesuffix("s"))
            assert (gain >= 1) == fits
        assert 1 <= sum(gain >= 1 for gain in question.gains) <= 5
        assert question.gains[question.label] == max(question.gains)
        shapes[bool(genre), bool(before)] += 1
    assert set(shapes) == {(True, False), (False, True), (True, True)}


def test_a_favourite_by_title_is_the_first_of_the_highest_value(shelf: Shelf) -> None:
    found = 0
    for view, row, question in asked(shelf, "favourite_title"):
        assert question.label == view.item(row)
        assert view.value(row) == 5
        assert all(view.value(earlier) != 5 for earlier in range(view.moment.cut, row))
        found += 1
    assert found > 20


# Probes


def test_a_probe_hides_the_profile_and_asks_for_it(
    rich_store: TokenStore, rich_corpus: Corpus
) -> None:
    task = all_tasks()["probe_gender"]
    evaluation = EvaluationSet(
        rich_store, [task], phase=Phase.TEST, config=MixtureConfig(), seed=0, max_targets=20
    )
    genders = rich_corpus.users["gender"].to_pylist()
    assert evaluation.targets["probe_gender"] == 20
    for tree in evaluation:
        trunk = rich_store.encoder.decode(tree.trunk)
        assert "Profile: unknown\n" in trunk
        assert "gender" not in trunk
        for branch in tree.branches:
            assert ("F", "M")[branch.question.label] == genders[tree.moment.user]


def test_numbers_of_a_profile_are_their_percentile_words(shelf: Shelf) -> None:
    words = shelf.common_profile_values("age", 6)
    assert set(words) == {"very low", "low", "medium", "high", "very high"}


# What applies


def test_what_a_corpus_lacks_is_said(
    tiny_store: TokenStore, rich_store: TokenStore, rich_corpus: Corpus
) -> None:
    reasons = {name: applicable(task, tiny_store) for name, task in all_tasks().items()}
    assert reasons["click"] == (
        "it has no impressions: no events that are 'clicked' and others that are 'skipped'"
    )
    assert reasons["action"] == "all its events are of one action"
    assert reasons["hours_bucket"] == "its events have no field 'hours'"
    assert reasons["probe_occupation"] == "its users have no field 'occupation'"
    assert reasons["time_to_next"] is None
    ours = ("click", "action", "hours_bucket", "finished", "recommended", "slate_with_note")
    assert not any(applicable(all_tasks()[name], rich_store) for name in ours)


def test_a_need_that_nobody_knows_is_refused(tiny_store: TokenStore) -> None:
    class Needy(type(all_tasks()["like"])):  # type: ignore[misc]
        needs = frozenset({"weather"})

    with pytest.raises(ValueError, match="'weather'"):
        applicable(Needy(), tiny_store)


def test_without_times_nobody_asks_what_comes_next(tmp_path: Path) -> None:
    corpus = make_rich_corpus(tmp_path / "corpus", has_times=False, users=30)
    store = compile_store(corpus, "train:700", tmp_path / "store")
    for name, task in all_tasks().items():
        about_order = task.next_only or name.startswith(("next", "future", "favourite_title"))
        reason = applicable(task, store)
        if about_order and task.family != "probes":
            assert reason == "it is not known when its events happened", name
        else:
            assert "when its events happened" not in str(reason), name
