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
    """The same targets in prompts of so many tokens; the oldest events are dropped first.

    Source: 360Brew (arXiv 2501.16450), section 2.5.
    """

    name = "context"
    x_label = "tokens of the prompt"
    scale: ClassVar[Literal["linear", "log", "names"]] = "log"
    same_targets = True

    def xs(self, ground: Ground) -> Sequence[float]:
        """Tokens, 1k to 32k."""
        return tuple(1024 << step for step in range(6))

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """As many of the newest events as leave room for the longest branch."""
        return ground.with_history(tree, _ALL_EVENTS, int(x) - _longest_branch(tree))

    def reached(self, ground: Ground, x: float, tree: Tree) -> bool:
        """Whether the whole history has so many tokens."""
        whole = ground.with_history(tree, _ALL_EVENTS)
        return len(whole.trunk) + _longest_branch(tree) >= x


def _longest_branch(tree: Tree) -> int:
    """Tokens of the longest branch with the last one of its answer."""
    return max(len(branch.tokens) for branch in tree.branches) + 1
