"""How much history: by shots, and by tokens of context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from data_pipeline.tree import Tree
from train.evaluation.curves.base import Curve, Ground

_ALL_EVENTS = 1 << 30


class Shots(Curve):
    """The same targets behind the last 0 to 100 events of the user, each a shot with its label.

    Source: 360Brew (arXiv 2501.16450), section 2.5.
    """

    name = "shots"
    x_label = "events of the history (shots)"
    scale: ClassVar[Literal["linear", "log", "names"]] = "log"
    same_targets = True

    def xs(self, ground: Ground) -> Sequence[float]:
        """Shots."""
        return (0, 1, 2, 5, 10, 20, 50, 100)

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """The newest x events."""
        return ground.with_history(tree, int(x))

    def reached(self, ground: Ground, x: float, tree: Tree) -> bool:
        """Whether the user has so many."""
        return ground.known_events(tree) >= x


class Context(Curve):
    """The same targets behind as much history as so many tokens hold; the oldest events go first.

    Source: 360Brew (arXiv 2501.16450), section 2.5.
    """

    name = "context"
    x_label = "tokens of the trunk"
    scale: ClassVar[Literal["linear", "log", "names"]] = "log"
    same_targets = True

    def xs(self, ground: Ground) -> Sequence[float]:
        """Tokens, 1k to 32k."""
        return tuple(1024 << step for step in range(6))

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """As many of the newest events as fit."""
        return ground.with_history(tree, _ALL_EVENTS, int(x))

    def reached(self, ground: Ground, x: float, tree: Tree) -> bool:
        """Whether the whole history has so many tokens."""
        return len(ground.with_history(tree, _ALL_EVENTS).trunk) >= x
