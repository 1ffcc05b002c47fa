"""What a curve is: the same exam at several values of x.

Either every point asks the same targets behind another prompt (`reshaped`), and points are compared
in pairs; or every point asks a part of the targets (`keeps`).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

from data_pipeline.mixture import MixtureConfig
from data_pipeline.render import BranchWriter
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Moment, Tree

EVERYTHING = 1 << 40
"""More tokens than any trunk has: no event is dropped."""


class Written(NamedTuple):
    """A text that a model wrote at a moment, and what it should have written."""

    said: str
    right: str


@dataclass(frozen=True, slots=True)
class Ground:
    """What the points of one corpus are made from."""

    store: TokenStore
    tasks: tuple[Task, ...]
    mixture: MixtureConfig
    writer: BranchWriter
    written: Mapping[Moment, Written] = field(default_factory=dict)
    """What the model wrote first, for a curve that `writes`."""

    @classmethod
    def of(cls, store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig) -> Ground:
        """The ground of a corpus and the tasks that its trees number."""
        return cls(store, tuple(tasks), mixture, BranchWriter(store, tasks))

    def first_event(self, tree: Tree) -> int:
        """Row of the first event of the tree's user."""
        return int(self.store.user_offsets_U1[tree.moment.user])

    def known_events(self, tree: Tree) -> int:
        """Events of the user before the moment, shown or not."""
        return tree.moment.cut - self.first_event(tree)

    def with_history(self, tree: Tree, events: int, max_tokens: int = EVERYTHING) -> Tree:
        """The tree with a trunk of at most so many events and tokens; its branches as they are."""
        start = max(self.first_event(tree), tree.moment.cut - events)
        moment = replace(tree.moment, start=start)
        trunk, _ = self.store.trunk(moment, self.mixture.styles[0], max_tokens)
        return replace(tree, moment=moment, trunk=trunk)


class Curve(abc.ABC):
    """One curve: a name, values of x, and how x changes the exam."""

    name: ClassVar[str]
    x_label: ClassVar[str]
    scale: ClassVar[Literal["linear", "log", "names"]] = "linear"
    same_targets: ClassVar[bool]
    """Whether every point asks the same targets."""
    has_slope: ClassVar[bool] = False
    """Whether the metric per unit of x is of interest by itself."""

    def wants(self, task: Task) -> bool:
        """Whether a task has such a curve; where tasks are named, only those are asked anyway."""
        return task.kind == "label" and task.history == "full"

    @property
    def writes(self) -> Task | None:
        """A text task that the model answers at every moment before any point is made."""
        return None

    @abc.abstractmethod
    def xs(self, ground: Ground) -> Sequence[float]:
        """Values of x, rising.

        Raises:
            ValueError: the corpus has no such curve; the message says why.
        """

    def skipped(self, ground: Ground) -> Mapping[float, str]:
        """Values of x that this corpus has no point at, and why."""
        return {}

    def mixture(self, mixture: MixtureConfig) -> MixtureConfig:
        """How the exam's prompts are made, before they are reshaped."""
        return mixture

    def names(self, ground: Ground) -> Mapping[float, str]:
        """Names of the values of x, where they have any."""
        return {}

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether the point at x asks this target."""
        return True

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """The prompt of the point at x; branches stay in number and order."""
        return tree

    def reached(self, ground: Ground, x: float, tree: Tree) -> bool:
        """Whether there is as much of what the curve varies as x says."""
        return True


def bucket(value: float, edges: Sequence[float]) -> float | None:
    """The edge that a value belongs to: the last one not above it; None below the first."""
    return max((edge for edge in edges if edge <= value), default=None)
