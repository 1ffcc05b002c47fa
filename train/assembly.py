"""Trees put together and packed: in this process, or in one beside it (`assembly_process.py`).

It is done in two turns, so that ranks can share out a step by cost: first each measures its part of
the step's trees, then it packs those that it was given. A tree is a pure function of its index, so
those of other ranks are put together once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.balance import size_of
from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.packing import Layout, MicroBatch, pack
from data_pipeline.store import open_stores
from data_pipeline.tree import Tree
from train.plugins import load_plugins


class TreeSource(Protocol):
    """Anything that gives the tree of an index: a mixture, or a list in a test."""

    def __getitem__(self, index: int, /) -> Tree:
        """The tree; the same whenever it is asked for."""
        ...


class Assembles(Protocol):
    """Measures the trees of a step, then packs those that it is given of it."""

    def measure(self, step: int, trees: Sequence[int]) -> NDArray[np.int64]:
        """The `Size` of each tree; shape [N, 5]."""
        ...

    def pack(self, step: int, parts: Sequence[Sequence[int]]) -> list[MicroBatch]:
        """A micro-batch of the trees of each part."""
        ...

    def close(self) -> None:
        """Stop, even in the middle of something."""
        ...


class Assembler:
    """Assembles in this process.

    Args:
        trees: the mixture.
        pack: makes a micro-batch of trees.
        layout: of the micro-batches; what a tree costs depends on it.
    """

    def __init__(
        self,
        trees: TreeSource,
        pack: Callable[[Sequence[Tree]], MicroBatch],
        *,
        layout: Layout = "L2",
    ) -> None:
        self._trees = trees
        self._pack = pack
        self._layout = layout
        self._measured: dict[int, dict[int, Tree]] = {}
        """Trees by index, by step: measured and not yet packed."""

    def measure(self, step: int, trees: Sequence[int]) -> NDArray[np.int64]:
        """The `Size` of each tree; shape [N, 5].

        Raises:
            DataError: a tree could not be assembled.
        """
        made = self._measured[step] = {index: self._trees[index] for index in trees}
        return np.array([size_of(tree, self._layout) for tree in made.values()], np.int64)

    def pack(self, step: int, parts: Sequence[Sequence[int]]) -> list[MicroBatch]:
        """A micro-batch of the trees of each part; what was measured for the step is forgotten.

        Raises:
            DataError: a tree could not be assembled.
        """
        made = self._measured.pop(step, {})
        return [self._pack([made.get(i) or self._trees[i] for i in part]) for part in parts]

    def close(self) -> None:
        """Nothing runs here by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that another process needs to assemble the trees of a run."""

    stores: tuple[str, ...]
    mixture: MixtureConfig
    seed: int
    plugins: tuple[str, ...]
    layout: Layout
    context_length: int | None
    """Positions of the model."""

    def open(self) -> Assembler:
        """Import the plugins and open the stores.

        Raises:
            ConfigError: a plugin cannot be imported.
            DataError: a store cannot be opened.
        """
        load_plugins(self.plugins)
        mixture = Mixture(open_stores(self.stores), self.mixture, seed=self.seed)
        mixture.context_length = self.context_length
        return assembler_of(mixture, self.layout)


def assembler_of(mixture: Mixture, layout: Layout) -> Assembler:
    """Assembles a mixture's trees in this process."""
    n_tasks, n_corpora = len(mixture.tasks), len(mixture.stores)
    packed = partial(pack, n_tasks=n_tasks, n_corpora=n_corpora, layout=layout)
    return Assembler(mixture, packed, layout=layout)
