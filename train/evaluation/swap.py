"""Does the model prefer an item, or the place where it stands? Pairs asked again the other way.

A model that reads the letters and not the items answers A both times. The consistency is the share
of pairs whose preferred item stays the same; 1/2 is what a blind guesser gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_pipeline.render import Asked, BranchWriter
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Question, Tree
from train.evaluation.scores import TargetScores

MOST_PAIRS = 100
NAME = "order_swap_consistency"


def swapped_trees(store: TokenStore, tasks: Sequence[Task], trees: Sequence[Tree]) -> list[Tree]:
    """The first pairs of every two-way choice between items, in the other order."""
    writer = BranchWriter(store, tasks)
    left = [MOST_PAIRS] * len(tasks)
    found = []
    for tree in trees:
        asked = []
        for branch in tree.branches:
            other = _swapped(tasks[branch.task], branch.question)
            if other is not None and left[branch.task]:
                left[branch.task] -= 1
                asked.append(Asked(branch.task, branch.subject, other, branch.phrasing))
        if asked:
            found.append(replace(tree, branches=writer.write(asked)))
    return found


def consistency(scores: TargetScores, swapped: TargetScores) -> float:
    """Share of pairs with the same preferred item in both orders; an undecided one counts half."""
    first_N = scores.probabilities_NK[: len(swapped), 0]
    again_N = swapped.probabilities_NK[:, 1]
    return float((0.5 + 0.5 * np.sign(first_N - 0.5) * np.sign(again_N - 0.5)).mean())


def _swapped(task: Task, question: Question) -> Question | None:
    """The question with its two options in the other order; None where it is no such question."""
    if task.kind != "choice" or len(question.candidates) != 2 or len(question.pieces) != 4:
        return None
    letter_a, first, letter_b, second = question.pieces
    return replace(
        question,
        label=1 - question.label,
        pieces=(letter_a, second, letter_b, first),
        candidates=question.candidates[::-1],
        gains=question.gains and question.gains[::-1],
        prior=question.prior and question.prior[::-1],
    )
