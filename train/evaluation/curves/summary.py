"""Taste in one line as a bottleneck: how much of a history's use passes through a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from data_pipeline.tasks import applicable, task_named
from data_pipeline.tasks.base import Task
from data_pipeline.tasks.cues import TASTE
from data_pipeline.tree import Branch, Tree
from data_pipeline.verbalize import clean
from train.evaluation.curves.base import Curve, Ground

_MOST_WORDS = 100
_MOST_CHARACTERS = 1000
NOTHING, OWN, RIGHT, WHOLE = range(4)
_NAMES: Mapping[float, str] = {
    NOTHING: "no history",
    OWN: "the model's summary",
    RIGHT: "the right summary",
    WHOLE: "the whole history",
}


class Summary(Curve):
    """The same targets behind no history, a summary of it, or all of it.

    The summary is that of the task `taste_summary`: once as the model itself writes it from the
    whole history, once as the right answer has it. The profile stands before each of them. Moments
    where there is too little to sum up are left out of every point. No training shows a summary in
    a trunk: the two points in the middle also say how well a model reads what it was never shown.
    """

    name = "summary"
    x_label = "what stands for the history"
    scale: ClassVar[Literal["linear", "log", "names"]] = "names"
    same_targets = True

    @property
    def writes(self) -> Task:
        """The summary."""
        return task_named("taste_summary")

    def xs(self, ground: Ground) -> Sequence[float]:
        """Numbers of the four."""
        reason = applicable(self.writes, ground.store)
        if reason is not None:
            raise ValueError(f"no taste can be summed up: {reason}")
        return tuple(_NAMES)

    def names(self, ground: Ground) -> Mapping[float, str]:
        """What stands for the history."""
        return _NAMES

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether there is something to sum up."""
        return tree.moment in ground.written

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """The trunk with the history, or with what stands for it."""
        if x == WHOLE:
            return tree
        bare = ground.with_history(tree, 0)
        if x == NOTHING:
            return bare
        written = ground.written[tree.moment]
        text = clean(
            written.said if x == OWN else written.right,
            words=_MOST_WORDS,
            characters=_MOST_CHARACTERS,
        )
        line = ground.store.encoder.pieces([TASTE, f" {text}\n"])
        return replace(bare, trunk=np.concatenate([bare.trunk, *line]))
