"""Questions of an evaluation without their prompts, and answers to them as `TargetScores`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.tasks.base import Task
from data_pipeline.tree import Moment, Question, Tree
from train.evaluation.scores import Floats, Ints, TargetScores, class_values, pad


@dataclass(frozen=True, slots=True)
class Asked:
    """One target as a baseline sees it: who, when, about what, and the right answer."""

    moment: Moment
    subject: int
    question: Question


def collect(trees: Iterable[Tree], tasks: Sequence[Task]) -> dict[str, list[Asked]]:
    """The questions of the trees by task name, in the order of the trees and their branches."""
    asked: dict[str, list[Asked]] = {task.name: [] for task in tasks}
    for tree in trees:
        for branch in tree.branches:
            question = Asked(tree.moment, branch.subject, branch.question)
            asked[tasks[branch.task].name].append(question)
    return asked


def group_of(asked: Asked) -> int:
    """What the bootstrap resamples: the user, or the item of a question that has no user."""
    return asked.moment.user if asked.moment.user >= 0 else -1 - asked.subject


def answered(
    task: Task,
    asked: Sequence[Asked],
    *,
    probabilities: Sequence[Sequence[float] | Floats] | None = None,
    places: tuple[Ints, Ints] | None = None,
    label_mass: Sequence[float] | Floats | None = None,
) -> TargetScores:
    """Put a scorer's answers beside the truth.

    Args:
        task: the task of the questions.
        asked: N questions.
        probabilities: of the choices of each question; for label and choice tasks.
        places: (better_N, tied_N) of the right item in the catalog; for title tasks.
        label_mass: probability of all choices together, where the scorer has one.
    """
    n = len(asked)
    assert (probabilities is None) == (task.kind == "title") == (places is not None), task.name
    rows: Sequence[Sequence[float] | Floats] = [()] * n if probabilities is None else probabilities
    assert [len(row) for row in rows] == [one.question.n_choices for one in asked], task.name
    better_N, tied_N = places or (np.full(n, -1), np.zeros(n))
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
        better_N=np.asarray(better_N, np.int64),
        tied_N=np.asarray(tied_N, np.int64),
        label_mass_N=np.full(n, np.nan) if label_mass is None else np.asarray(label_mass),
    )


def place_in_catalog(score_N: Floats, right: int, excluded: Ints) -> tuple[int, int]:
    """How many items of the catalog score higher than the right one, and how many the same.

    Args:
        score_N: a score for every item row; -inf for items outside the catalog.
        right: row of the right item.
        excluded: rows of items that may not be recommended again (the history).
    """
    ranked_N = np.array(score_N, np.float64)
    ranked_N[excluded] = -np.inf
    if np.isnan(ranked_N).any():
        raise ValueError("a scorer gave NaN for an item: its ranking would mean nothing")
    score = score_N[right]
    if not np.isfinite(score):
        # An item that no scorer can recommend is a miss at the bottom, not a target left out.
        return int(np.isfinite(ranked_N).sum()), 0
    ranked_N[right] = -np.inf
    return int((ranked_N > score).sum()), int((ranked_N == score).sum())
