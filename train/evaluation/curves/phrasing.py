"""How much an instruction's words matter: each phrasing in turn, those never trained on last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from data_pipeline.render import Asked
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Tree
from train.evaluation.curves.base import Curve, Ground


class Phrasings(Curve):
    """The same targets asked in each phrasing that training used, and in those it never saw."""

    name = "phrasing"
    x_label = "phrasing of the instruction"
    scale: ClassVar[Literal["linear", "log", "names"]] = "names"
    same_targets = True

    def wants(self, task: Task) -> bool:
        """Every task but those that are answered by a title or text, which cost far more."""
        return not task.is_written

    def xs(self, ground: Ground) -> Sequence[float]:
        """Numbers of the phrasings: trained ones from 0, then those never seen."""
        return tuple(range(self._most_seen(ground) + self._most_unseen(ground)))

    def names(self, ground: Ground) -> Mapping[float, str]:
        """`seen 1`, ..., `unseen 1`."""
        seen = self._most_seen(ground)
        return {
            x: f"seen {int(x) + 1}" if x < seen else f"unseen {int(x) - seen + 1}"
            for x in self.xs(ground)
        }

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether the task has such a phrasing."""
        return self._number(ground, x, ground.tasks[branch.task]) is not None

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """The branches written anew."""
        asked = [
            Asked(
                branch.task,
                branch.subject,
                branch.question,
                self._number(ground, x, ground.tasks[branch.task]) or 0,
            )
            for branch in tree.branches
        ]
        return replace(tree, branches=ground.writer.write(asked))

    def _number(self, ground: Ground, x: float, task: Task) -> int | None:
        """The task's phrasing at x, counted as a branch does; None where it has none."""
        seen = self._most_seen(ground)
        if x < seen:
            return int(x) if x < len(task.instructions) else None
        unseen = int(x) - seen
        known = len(task.held_out_instructions)
        return len(task.instructions) + unseen if unseen < known else None

    @staticmethod
    def _most_seen(ground: Ground) -> int:
        return max((len(task.instructions) for task in ground.tasks), default=0)

    @staticmethod
    def _most_unseen(ground: Ground) -> int:
        return max((len(task.held_out_instructions) for task in ground.tasks), default=0)
