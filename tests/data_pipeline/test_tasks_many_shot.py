"""Many-shot questions: whose rows are shown, in which order, and that no answer is given away."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.build import BuildConfig, compile_store
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.splits import Phase, SplitConfig
from data_pipeline.store import TokenStore
from data_pipeline.store_tables import REVIEW_KIND
from data_pipeline.tasks import Task, all_tasks, applicable
from data_pipeline.tree import Tree

TASKS = [task for task in all_tasks().values() if task.code == "T40"]
CONFIG = MixtureConfig(targets_per_tree=4, max_trunk_tokens=1 << 20)
Events = list[dict[str, object]]


@pytest.fixture(scope="module")
def events(rich_corpus: Corpus) -> Events:
    found: Events = rich_corpus.events.to_pylist()
    return found


@pytest.fixture(scope="module")
def last_store(
    rich_corpus: Corpus, rich_store: TokenStore, tmp_path_factory: pytest.TempPathFactory
) -> TokenStore:
    """Each user's last events are asked about: those who are asked have rows of training time."""
    config = BuildConfig(split=SplitConfig(method="leave_last"))
    folder = tmp_path_factory.mktemp("last") / "store"
    return compile_store(rich_corpus, rich_store.tokenizer_folder, folder, config)


def drawn(
    store: TokenStore, rows: int, *, seed: int = 0, phase: Phase = Phase.TEST, targets: int = 24
) -> list[Tree]:
    config = replace(CONFIG, demonstrations=rows)
    asked = EvaluationSet(store, TASKS, phase=phase, config=config, seed=seed, max_targets=targets)
    assert set(asked.targets.values()) == {targets}
    return asked[:]


@pytest.fixture(scope="module")
def trees(rich_store: TokenStore) -> list[Tree]:
    return drawn(rich_store, 16)


def event_of(store: TokenStore, pieces: tuple[int, ...]) -> int:
    """The event whose review stands in a row."""
    first = store.piece_of(REVIEW_KIND, 0)
    (event,) = [piece - first for piece in pieces if 0 <= piece - first < store.n_events]
    return event


def shown(store: TokenStore, tree: Tree) -> Iterator[tuple[tuple[int, ...], int]]:
    for row in tree.moment.demonstrations:
        yield row, event_of(store, row)


def text(store: TokenStore, pieces: tuple[int, ...]) -> str:
    return store.encoder.decode(store.gather(pieces)[0])


def truth(task: Task, event: dict[str, object]) -> str:
    """What the corpus says, in the words of the task's labels."""
    votes, stars = event["helpful"], event["value"]
    assert isinstance(votes, float)
    assert isinstance(stars, float)
    return {
        "many_shot_helpful": "Yes" if votes >= 3 else "No",
        "many_shot_review_rating": f"{stars:.0f}",
        "many_shot_spoiler": str(event["spoiler"]).title(),
        "many_shot_early_access": str(event["early_access"]).title(),
    }[task.name]


def task_of(tree: Tree) -> Task:
    """The one task of a tree: rows of one question explain no other."""
    (number,) = {branch.task for branch in tree.branches}
    return TASKS[number]


def test_rows_shown_are_of_training_time_and_of_nobody_who_is_asked(last_store: TokenStore) -> None:
    for tree in drawn(last_store, 16):
        asked = {last_store.user_of_event(branch.subject) for branch in tree.branches}
        assert asked == {branch.question.user for branch in tree.branches}
        rows = [event for _, event in shown(last_store, tree)]
        assert len(rows) == len(set(rows)) == 16
        assert {last_store.event_phase_E[row] for row in rows} == {Phase.TRAIN}
        assert asked.isdisjoint(last_store.user_of_event(row) for row in rows)
        for branch in tree.branches:
            assert last_store.event_phase_E[branch.subject] == Phase.TEST


def test_in_a_split_by_time_rows_are_older_than_all_that_is_asked(
    rich_store: TokenStore, trees: list[Tree]
) -> None:
    assert rich_store.card.split["method"] == "global_time"
    for tree in trees:
        times = [rich_store.event_time_E[event] for _, event in shown(rich_store, tree)]
        asked = [rich_store.event_time_E[branch.subject] for branch in tree.branches]
        assert max(times) < min(asked)


def test_all_rows_but_those_of_who_is_asked_can_be_shown(
    last_store: TokenStore, events: Events
) -> None:
    phases = last_store.event_phase_E
    train = {row for row, e in enumerate(events) if e["review"] and phases[row] == Phase.TRAIN}
    for tree in drawn(last_store, 10_000, targets=8):
        asked = {branch.question.user for branch in tree.branches}
        theirs = {row for row in train if last_store.user_of_event(row) in asked}
        assert len(theirs) > 5
        assert {event for _, event in shown(last_store, tree)} == train - theirs


def test_answers_are_the_corpus_own_in_the_tokens_that_are_asked_for(
    rich_store: TokenStore, trees: list[Tree], events: Events
) -> None:
    for tree in trees:
        task = task_of(tree)
        for row, event in shown(rich_store, tree):
            said = text(rich_store, row).splitlines()[-1]
            assert said == f"Answer: {truth(task, events[event])}"
            label = task.labels.index(said.removeprefix("Answer: "))
            ids = rich_store.gather(row)[0]
            branch = tree.branches[0]
            cue = branch.tokens[-2:]
            place = len(ids) - 2  # the answer, then the end of the line
            assert ids[place] == branch.choices[label]
            np.testing.assert_array_equal(ids[place - 2 : place], cue)
        for branch in tree.branches:
            label = task.labels[branch.question.label]
            assert label == truth(task, events[branch.subject])


def test_the_row_asked_reads_like_those_shown_and_ends_before_its_answer(
    rich_store: TokenStore, trees: list[Tree], events: Events
) -> None:
    for tree in trees:
        task = task_of(tree)
        heads = {
            tuple(line.split(":")[0] for line in text(rich_store, row).splitlines())
            for row, _ in shown(rich_store, tree)
        }
        for branch in tree.branches:
            prompt = rich_store.encoder.decode(branch.tokens)
            lines = text(rich_store, branch.question.pieces).splitlines()
            assert event_of(rich_store, branch.question.pieces) == branch.subject
            assert (*(line.split(":")[0] for line in lines), "Answer") in heads
            assert prompt.endswith("\n".join([*lines, "Answer:"]))
            assert prompt.count("Answer") == 1
            # Neither the outcome of the event nor any other field of it stands there.
            item = rich_store.titles[int(rich_store.event_item_E[branch.subject])]
            review = " ".join(str(events[branch.subject]["review"]).split())
            known = ["User", "Candidate", "Review"]
            if len(lines) > 3:
                assert task.name == "many_shot_early_access"
                known += ["Hours"]
            assert [line.split(":")[0] for line in lines] == known
            assert lines[1].startswith(f"Candidate: {item} (")
            assert lines[2] == f"Review: {review}"
            assert event_of(rich_store, branch.question.pieces) not in {
                event for _, event in shown(rich_store, tree)
            }


def test_hours_are_said_in_classes(
    rich_store: TokenStore, trees: list[Tree], events: Events
) -> None:
    lines = set()
    for tree in trees:
        if task_of(tree).name != "many_shot_early_access":
            continue
        for row, event in shown(rich_store, tree):
            hours = events[event]["hours"]
            said = [line for line in text(rich_store, row).splitlines() if line[:6] == "Hours:"]
            assert bool(said) == (hours is not None)
            if isinstance(hours, float):
                words = "under 2" if hours < 2 else "2 to 20" if hours < 20 else "20 to 100"
                assert said == [f"Hours: {words} hours"]
                lines.update(said)
    assert len(lines) >= 2


@pytest.mark.parametrize("rows", [0, 4, 64])
def test_fewer_rows_are_the_nearest_of_more_before_the_same_questions(
    rich_store: TokenStore, trees: list[Tree], rows: int
) -> None:
    for other, tree in zip(drawn(rich_store, rows), trees, strict=True):
        few, many = (other, tree) if rows < 16 else (tree, other)
        n = len(few.moment.demonstrations)
        assert n == min(rows, 16)
        assert few.moment.demonstrations == many.moment.demonstrations[:n]
        assert rich_store.encoder.decode(many.trunk).endswith(
            rich_store.encoder.decode(few.trunk).partition("Examples:\n")[2]
        )
        assert len(many.trunk) > len(few.trunk)
        for one, two in zip(few.branches, many.branches, strict=True):
            assert (one.subject, one.question) == (two.subject, two.question)
            np.testing.assert_array_equal(one.tokens, two.tokens)


def test_the_nearest_row_stands_last(rich_store: TokenStore, trees: list[Tree]) -> None:
    for tree in trees:
        near, *_, far = (text(rich_store, row) for row, _ in shown(rich_store, tree))
        trunk = rich_store.encoder.decode(tree.trunk)
        assert trunk.startswith(f"Questions about films.\nExamples:\n{far}")
        assert trunk.endswith(near)


def test_no_rows_are_a_trunk_with_nothing_in_it(rich_store: TokenStore) -> None:
    for tree in drawn(rich_store, 0):
        assert rich_store.encoder.decode(tree.trunk) == "Questions about films.\n"


def test_the_farthest_rows_go_first_where_tokens_are_few(
    rich_store: TokenStore, trees: list[Tree]
) -> None:
    for tree in trees:
        for room in (len(tree.trunk), len(tree.trunk) - 1, 200, 20):
            trunk, _ = rich_store.trunk(tree.moment, "plain", room)
            assert len(trunk) <= room
            rows = rich_store.encoder.decode(trunk).partition("Examples:\n")[2]
            whole = [text(rich_store, row) for row, _ in shown(rich_store, tree)]
            assert rows == "".join(reversed(whole[: rows.count("Answer:")]))
        assert rich_store.encoder.decode(trunk) == "Questions about films.\n"


def test_labels_are_as_frequent_as_in_training_time(rich_store: TokenStore, events: Events) -> None:
    rich = drawn(rich_store, 300)
    train = [
        event
        for event, phase in zip(events, rich_store.event_phase_E, strict=True)
        if phase == Phase.TRAIN and event["review"]
    ]
    for task in TASKS[:1] + TASKS[2:]:
        own = [tree for tree in rich if task_of(tree) == task]
        rows = [text(rich_store, row) for tree in own for row, _ in shown(rich_store, tree)]
        said = [row.endswith(" Yes\n") for row in rows]
        share = np.mean([truth(task, event) == "Yes" for event in train])
        assert share < 0.3  # balanced rows would be half yes
        assert np.mean(said) == pytest.approx(share, abs=0.05)


def test_they_are_the_same_every_time_and_others_with_another_seed(
    rich_store: TokenStore, trees: list[Tree]
) -> None:
    again, other = drawn(rich_store, 16), drawn(rich_store, 16, seed=1)
    for one, two in zip(trees, again, strict=True):
        assert one.moment == two.moment
        np.testing.assert_array_equal(one.trunk, two.trunk)
    assert all(
        one.moment.demonstrations != two.moment.demonstrations
        for one, two in zip(trees, other, strict=True)
    )
    rows = [tree.moment.demonstrations for tree in trees]
    assert len(set(rows)) == len(rows)  # each tree has rows of its own


def test_validation_shows_training_time_too(rich_store: TokenStore) -> None:
    for tree in drawn(rich_store, 16, phase=Phase.VALIDATION, targets=8):
        assert {rich_store.event_phase_E[b.subject] for b in tree.branches} == {Phase.VALIDATION}
        rows = [event for _, event in shown(rich_store, tree)]
        assert {rich_store.event_phase_E[row] for row in rows} == {Phase.TRAIN}


@pytest.mark.parametrize("rows", [0, 2, 16])
def test_joined_ids_equal_the_tokenizer_on_whole_prompts(rich_store: TokenStore, rows: int) -> None:
    encoder = rich_store.encoder
    for tree in drawn(rich_store, rows):
        for branch in tree.branches:
            ids = np.concatenate([tree.trunk, branch.tokens, branch.answer])
            # At once, and without added tokens: a review that reads like one is plain text.
            np.testing.assert_array_equal(encoder.start(encoder.decode(ids)), ids)


def test_without_profiles_rows_say_nothing_of_users(rich_store: TokenStore) -> None:
    store = TokenStore.open(rich_store.folder)
    store.card = replace(rich_store.card, user_fields=())
    for tree in drawn(store, 4, targets=4):
        assert "User:" not in store.encoder.decode(tree.trunk)
        assert "User:" not in store.encoder.decode(tree.branches[0].tokens)


def test_a_corpus_without_reviews_is_told_and_no_mixture_takes_the_family(
    tiny_store: TokenStore, rich_store: TokenStore
) -> None:
    for task in TASKS:
        assert applicable(task, rich_store) is None
        assert applicable(task, tiny_store) is not None
        assert task.tier == "T2c"
    assert len(TASKS) == 4
    with pytest.raises(DataError, match=r"'many_shot'.*never trained on"):
        Mixture([rich_store], MixtureConfig(tasks={"many_shot": 1.0, "like": 1.0}), seed=0)
