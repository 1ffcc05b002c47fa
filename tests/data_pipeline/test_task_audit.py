"""A task that gives its answer away is found; those of the catalogue do not."""

from dataclasses import replace
from typing import ClassVar

import pytest

from data_pipeline.store import TokenStore
from data_pipeline.task_audit import audit_phrasings, audit_tasks
from data_pipeline.tasks import View, all_tasks
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Question

Like = type(all_tasks()["like"])
NextGenre = type(all_tasks()["next_genre"])


class LeakyLike(Like):  # type: ignore[misc, valid-type]
    """Shows what the user did with the candidate."""

    name: ClassVar[str] = "leaky_like"

    def ask(self, view: View, subject: int) -> Question | None:
        question: Question | None = super().ask(view, subject)
        if question is None:
            return None
        told = view.constant("Verdict: good\n" if question.label else "Verdict: poor\n")
        return replace(question, pieces=(*question.pieces, told))


class UnshuffledGenre(NextGenre):  # type: ignore[misc, valid-type]
    """Puts the right option first."""

    name: ClassVar[str] = "unshuffled_genre"

    def ask(self, view: View, subject: int) -> Question | None:
        question: Question | None = super().ask(view, subject)
        return None if question is None else replace(question, label=0)


class ParrotLike(Like):  # type: ignore[misc, valid-type]
    """Keeps back what it trains on, in another order and case."""

    name: ClassVar[str] = "parrot_like"
    held_out_instructions: ClassVar[tuple[str, ...]] = ("this user: WILL like this {item}?",)


class UnseenTwin(Like):  # type: ignore[misc, valid-type]
    """Says that no training asks it, in the words of a task that is trained."""

    name: ClassVar[str] = "unseen_twin"
    tier: ClassVar[str] = "T2a"


@pytest.fixture
def catalogue() -> list[Task]:
    return list(all_tasks().values())


def test_a_question_that_holds_its_answer_is_found(tiny_store: TokenStore) -> None:
    leaks = audit_tasks(tiny_store, [LeakyLike(), Like()])
    assert {(leak.task, leak.kind) for leak in leaks} == {("leaky_like", "token")}
    assert "holds its answer" in leaks[0].message


def test_options_that_are_not_shuffled_are_found(tiny_store: TokenStore) -> None:
    leaks = audit_tasks(tiny_store, [UnshuffledGenre(), NextGenre()])
    assert {(leak.task, leak.kind) for leak in leaks} == {("unshuffled_genre", "place")}
    assert "number 1 in" in leaks[0].message


def test_a_phrasing_that_training_says_as_well_is_found(catalogue: list[Task]) -> None:
    leaks = audit_phrasings([*catalogue, ParrotLike()])
    assert [(leak.task, leak.kind) for leak in leaks] == [("parrot_like", "phrasing")]
    twins = audit_phrasings([*catalogue, UnseenTwin()])
    assert {leak.task for leak in twins} == {"unseen_twin"}
    assert len(twins) == len(Like.instructions)


def test_no_task_of_the_catalogue_gives_its_answer_away(
    tiny_store: TokenStore, catalogue: list[Task]
) -> None:
    assert audit_phrasings(catalogue) == []
    assert audit_tasks(tiny_store, catalogue) == []
