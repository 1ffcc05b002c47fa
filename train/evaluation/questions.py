"""Questions of an evaluation without their prompts, and answers to them as `TargetScores`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np

from data_pipeline.files import fingerprint
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Moment, Question, Tree
from train.evaluation.scores import Floats, Ints, TargetScores, Texts, class_values, pad


@dataclass(frozen=True, slots=True)
class Asked:
    """One target as a baseline sees it: who, when, about what, and the right answer."""

    moment: Moment
    subject: int
    question: Question


class Place(NamedTuple):
    """Where the right item of a title task stands in a ranking of the catalog."""

    better: int
    """items that score strictly higher"""
    tied: int
    """other items that score the same"""
    ranked: int
    """items of the ranking, the right one counted; not above `better` where that is no part of
    it"""


def collect(trees: Iterable[Tree], tasks: Sequence[Task]) -> dict[str, list[Asked]]:
    """The questions of the trees by task name, in the order of the trees and their branches."""
    asked: dict[str, list[Asked]] = {task.name: [] for task in tasks}
    for tree in trees:
        for branch in tree.branches:
            question = Asked(tree.moment, branch.subject, branch.question)
            asked[tasks[branch.task].name].append(question)
    return asked


def group_of(asked: Asked) -> int:
    """What the bootstrap resamples: the user; without one the query or whatever was asked about."""
    if asked.moment.user >= 0:
        return asked.moment.user
    if asked.question.user is not None:
        return asked.question.user
    return -1 - (asked.subject if asked.question.query is None else asked.question.query)


def answered(
    task: Task,
    asked: Sequence[Asked],
    *,
    probabilities: Sequence[Sequence[float] | Floats] | None = None,
    places: Sequence[Place] | None = None,
    label_mass: Sequence[float] | Floats | None = None,
    texts: Texts | None = None,
) -> TargetScores:
    """Put a scorer's answers beside the truth.

    Args:
        task: the task of the questions.
        asked: N questions.
        probabilities: of the choices of each question; for label and choice tasks.
        places: of the right items in the catalog; for title tasks.
        label_mass: probability of all choices together, where the scorer has one.
        texts: what was said to each question; for text tasks.
    """
    n = len(asked)
    assert (probabilities is None) == task.is_written, task.name
    assert (places is None, texts is None) == (task.kind != "title", task.kind != "text"), task.name
    rows: Sequence[Sequence[float] | Floats] = [()] * n if probabilities is None else probabilities
    assert [len(row) for row in rows] == [one.question.n_choices for one in asked], task.name
    better_N, tied_N, ranked_N = np.array(places or [Place(-1, 0, 0)] * n).reshape(-1, 3).T
    values = (one.question.value for one in asked)
    return TargetScores(
        groups_N=np.array([group_of(one) for one in asked], np.int64),
        subjects_N=np.array([one.subject for one in asked], np.int64),
        labels_N=np.array([one.question.label for one in asked], np.int64),
        n_choices_N=np.array([one.question.n_choices for one in asked], np.int64),
        probabilities_NK=pad(rows, 0.0),
        gains_NK=pad([one.question.gains or () for one in asked], np.nan),
        values_N=np.array([np.nan if v is None else v for v in values], np.float64),
        class_values_K=class_values(task.labels),
        better_N=better_N.astype(np.int64),
        tied_N=tied_N.astype(np.int64),
        ranked_N=ranked_N.astype(np.int64),
        label_mass_N=np.full(n, np.nan) if label_mass is None else np.asarray(label_mass),
        requests_N=_requests(asked),
        texts=texts,
    )


def _requests(asked: Sequence[Asked]) -> Ints | None:
    rows = [one.question.request for one in asked]
    if all(row is None for row in rows):
        return None
    return np.array([-1 if row is None else row for row in rows], np.int64)


def place_in_catalog(score_N: Floats, right: int, excluded: Ints) -> Place:
    """Rank the right item among the catalog without the history.

    Args:
        score_N: a score for every item row; -inf for items outside the catalog.
        right: row of the right item.
        excluded: rows of items that may not be recommended again (the history).

    Raises:
        ValueError: a score is NaN.
    """
    ranked_N = np.array(score_N, np.float64)
    ranked_N[excluded] = -np.inf
    if np.isnan(ranked_N).any():
        raise ValueError("a scorer gave NaN for an item: its ranking would mean nothing")
    n, score = int(np.isfinite(ranked_N).sum()), ranked_N[right]
    if not np.isfinite(score):
        # An item that nobody may recommend is a miss at the bottom, not a target left out.
        return Place(n, 0, n)
    return Place(int((ranked_N > score).sum()), int((ranked_N == score).sum()) - 1, n)


def questions_fingerprint(asked: Mapping[str, Sequence[Asked]]) -> str:
    """Hash of all questions with their moments, pieces and right answers."""
    return fingerprint(
        {
            name: [
                [
                    *(one.subject, *astuple(one.moment), one.question.label),
                    *(list(one.question.candidates), list(one.question.pieces)),
                    *([list(one.question.text)] if one.question.text else ()),
                ]
                for one in questions
            ]
            for name, questions in asked.items()
        }
    )


def targets_fingerprint(store: TokenStore, asked: Sequence[Asked]) -> str:
    """Hash of what is asked and what is right, whatever the prompt around it.

    Equal for two models whose prompts differ: in history, phrasing, layout or tokenizer. Choices
    that are no items are known by their text.
    """
    texts: dict[int, str] = {}

    def text(piece: int) -> str:
        if piece not in texts:
            texts[piece] = store.encoder.decode(store.piece(piece))
        return texts[piece]

    return fingerprint(
        [
            [
                *(one.moment.user, one.moment.cut, one.subject),
                *(one.question.label, one.question.n_choices, one.question.value),
                list(one.question.candidates or map(text, one.question.pieces)),
                *map(text, one.question.text),
            ]
            for one in asked
        ]
    )
