"""How many labelled rows of other users explain a question that was never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from data_pipeline.mixture import MixtureConfig
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Tree
from train.evaluation.curves.base import EVERYTHING, Curve, Ground

ROWS = (0, 4, 16, 64, 256)


class ManyShot(Curve):
    """The same targets behind 0 to 256 rows; fewer rows are the nearest ones of more.

    Intervals are over users and hold for the rows drawn, which the targets of a tree share.

    Source: Agarwal et al., "Many-Shot In-Context Learning" (arXiv 2404.11018).
    """

    name = "many_shot"
    x_label = "labelled rows of other users"
    scale: ClassVar[Literal["linear", "log", "names"]] = "log"
    same_targets = True

    def wants(self, task: Task) -> bool:
        """Tasks that are explained by such rows."""
        return task.history == "demonstrations"

    def xs(self, ground: Ground) -> Sequence[float]:
        """Rows."""
        return ROWS

    def mixture(self, mixture: MixtureConfig) -> MixtureConfig:
        """Prompts with rows enough for the last point."""
        return replace(mixture, demonstrations=max(ROWS))

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """The nearest x rows."""
        rows = tree.moment.demonstrations[: int(x)]
        moment = replace(tree.moment, demonstrations=rows)
        trunk, _ = ground.store.trunk(moment, ground.mixture.styles[0], EVERYTHING)
        return replace(tree, moment=moment, trunk=trunk)

    def reached(self, ground: Ground, x: float, tree: Tree) -> bool:
        """Whether the corpus has so many."""
        return len(tree.moment.demonstrations) >= x
