"""The stream of micro-batches: which tree goes to which rank at which step, assembled ahead.

Global step s consumes the trees with index [s * G, (s + 1) * G), where G is the global batch in
trees. Rank r of R takes every R-th of them, starting at r, and cuts what it took into its
micro-batches in order. So a step's trees are the same on any number of ranks, and the whole state
of the stream is one integer: the next index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_pipeline.packing import MicroBatch
from data_pipeline.tree import Tree


class TreeSource(Protocol):
    """Anything that gives the tree of an index: a mixture, or a list in a test."""

    def __getitem__(self, index: int, /) -> Tree:
        """The tree; the same whenever it is asked for."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """This rank's part of every global batch."""

    rank: int
    world_size: int
    trees_per_micro_batch: int
    micro_batches: int
    """Micro-batches of one rank in one step: the gradient accumulation."""

    @property
    def global_batch(self) -> int:
        """Trees of one step, over all ranks."""
        return self.world_size * self.trees_per_micro_batch * self.micro_batches

    def indices(self, step: int) -> list[list[int]]:
        """Tree indices of this rank's micro-batches in a step."""
        first = step * self.global_batch
        mine = range(first + self.rank, first + self.global_batch, self.world_size)
        size = self.trees_per_micro_batch
        return [list(mine[start : start + size]) for start in range(0, len(mine), size)]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's own random numbers, such as dropout's, in one step on one rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


class BatchStream:
    """Micro-batches of any step, with the next steps' being assembled in a thread meanwhile.

    Args:
        trees: the mixture.
        pack: makes a micro-batch of trees.
        share: this rank's part.
        prefetch: steps to assemble ahead; 0 assembles when asked.
    """

    def __init__(
        self,
        trees: TreeSource,
        pack: Callable[[Sequence[Tree]], MicroBatch],
        share: Share,
        *,
        prefetch: int = 1,
    ) -> None:
        self.share = share
        self._trees = trees
        self._pack = pack
        self._prefetch = prefetch
        # One thread: numpy and the tree code hold the interpreter lock for most of their time.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="assemble")
        self._ahead: dict[int, Future[list[MicroBatch]]] = {}

    def take(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step.

        Raises:
            DataError: a tree could not be assembled.
        """
        wanted = range(step, step + self._prefetch + 1)
        for skipped in [number for number in self._ahead if number not in wanted]:
            self._ahead.pop(skipped).cancel()
        for number in wanted:
            if number not in self._ahead:
                self._ahead[number] = self._worker.submit(self._assemble, number)
        return self._ahead.pop(step).result()

    def _assemble(self, step: int) -> list[MicroBatch]:
        return [
            self._pack([self._trees[index] for index in indices])
            for indices in self.share.indices(step)
        ]

    def close(self) -> None:
        """Stop assembling."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()
