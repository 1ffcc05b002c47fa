"""The points of a curve: for each x its trees, and which targets of the exam they are.

Shapes: N targets of one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_pipeline.tree import Tree
from train.evaluation.curves.base import Curve, Ground


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The questions at one x."""

    x: float
    trees: list[Tree]
    rows: dict[str, NDArray[np.int64]]
    """by task: which of the exam's targets these are, in the order of the trees"""
    reached: dict[str, float]
    """by task: share of the targets that have as much as x says"""
    longest: int
    """tokens of the longest prompt with its answer"""

    @property
    def targets(self) -> int:
        """Targets of all tasks."""
        return sum(map(len, self.rows.values()))


def make_point(curve: Curve, ground: Ground, x: float, trees: Sequence[Tree], most: int) -> Point:
    """Draw the questions at x from the trees of an exam.

    Args:
        curve: how x changes them.
        ground: of the trees' corpus.
        x: the place on the curve.
        trees: the whole exam.
        most: targets of each task at most, where points ask parts of the exam.
    """
    names = [task.name for task in ground.tasks]
    counted = dict.fromkeys(names, 0)
    rows: dict[str, list[int]] = {name: [] for name in names}
    reached = dict.fromkeys(names, 0)
    found: list[Tree] = []
    for tree in trees:
        kept = []
        enough = curve.reached(ground, x, tree)
        for place, branch in enumerate(tree.branches):
            name = names[branch.task]
            row, counted[name] = counted[name], counted[name] + 1
            full = not curve.same_targets and len(rows[name]) >= most
            if not full and curve.keeps(ground, x, tree, branch):
                rows[name].append(row)
                reached[name] += enough
                kept.append(place)
        if kept:
            branches = tuple(tree.branches[place] for place in kept)
            found.append(curve.reshaped(ground, x, replace(tree, branches=branches)))
    return Point(
        x=x,
        trees=found,
        rows={name: np.array(part, np.int64) for name, part in rows.items() if part},
        reached={name: reached[name] / len(part) for name, part in rows.items() if part},
        longest=max(map(_longest, found), default=0),
    )


def _longest(tree: Tree) -> int:
    return len(tree.trunk) + max((len(branch.tokens) + 1 for branch in tree.branches), default=0)
