"""How little is known: of the user, of the item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Tree
from train.evaluation.curves.base import Curve, Ground, bucket


class ColdUsers(Curve):
    """Targets by how many events of their user came before; a point holds up to the next x."""

    name = "cold_users"
    x_label = "events known of the user"
    scale: ClassVar[Literal["linear", "log", "names"]] = "log"
    same_targets = False

    def wants(self, task: Task) -> bool:
        """Tasks that see a history, the one about new users included."""
        return task.kind == "label" and task.history in ("full", "cold")

    def xs(self, ground: Ground) -> Sequence[float]:
        """Events."""
        return (0, 1, 3, 5, 10, 20, 50, 100)

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether the user had from x to the next x events."""
        return bucket(ground.known_events(tree), self.xs(ground)) == x


class ColdItems(Curve):
    """Targets about one item, by its events in training; a point holds up to the next x."""

    name = "cold_items"
    x_label = "training events of the item"
    scale: ClassVar[Literal["linear", "log", "names"]] = "log"
    same_targets = False

    def xs(self, ground: Ground) -> Sequence[float]:
        """Events."""
        return (0, 1, 3, 10, 30, 100, 300, 1000)

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether the candidate, or a title task's right item, has from x to the next x events."""
        items = branch.question.candidates
        if len(items) != 1:
            return False
        count = float(ground.store.statistics.item_count_N[items[0]])
        return bucket(count, self.xs(ground)) == x
