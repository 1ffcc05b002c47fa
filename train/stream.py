"""The stream of micro-batches: which tree goes to which rank at which step, assembled ahead.

Global step s consumes the trees with index [s * G, (s + 1) * G), where G is the global batch in
trees, so a step's trees are the same on any number of ranks, and the whole state of the stream is
one integer: the next index. Within a step the trees are dealt out so that all micro-batches of a
turn cost the same: each rank measures every R-th tree, from its rank on, one small sum over the
ranks tells all of them all sizes, and each comes to the same split by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.balance import Cost, Size, balanced, imbalance, strided
from data_pipeline.packing import MicroBatch
from train.assembly import Assembles

log = logging.getLogger(__name__)

T = TypeVar("T")
SumOverRanks = Callable[[NDArray[np.float64]], NDArray[np.float64]]


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

    def trees(self, step: int) -> range:
        """Tree indices of a step, of all ranks."""
        return range(step * self.global_batch, (step + 1) * self.global_batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBatches:
    """What one rank computes in one step."""

    batches: list[MicroBatch]
    trees: list[list[int]]
    """Tree indices of each micro-batch."""
    waited: float
    """Seconds that the caller waited for assembly."""
    imbalance: float
    """How much longer the step takes than if all micro-batches of a turn cost the same: 1 and up,
    by counted operations."""
    imbalance_strided: float
    """The same, had each rank taken its stride."""
    dropped_events: int
    """Oldest events of the step's histories, of all ranks, that the trunks had no room for."""
    shortened_trees: int
    """Trees of the step, of all ranks, that dropped events."""
    users: int
    """Different users of the step, over all ranks."""


@dataclass(frozen=True, slots=True)
class _Dealt:
    """A step that is shared out, with this rank's micro-batches under way."""

    trees: list[list[int]]
    batches: Future[list[MicroBatch]]
    imbalance: float
    imbalance_strided: float
    dropped_N: NDArray[np.int64]
    """Dropped events of each tree of the step."""
    users: int


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's own random numbers, such as dropout's, in one step on one rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


class BatchStream:
    """Micro-batches of any step, with the next steps' being assembled meanwhile.

    All ranks must take the same steps in the same order: to take is a collective.

    Args:
        assemblers: one or more; they take turns, step by step.
        share: this rank's part.
        cost: what a tree costs, to balance the micro-batches by.
        balance: whether to; else every rank takes its stride.
        sum_over_ranks: sums an array over the ranks, exactly for whole numbers below 2^53.
        prefetch: steps to assemble ahead; 0 assembles when asked.
        min_users: a step of fewer different users is told of, the first time.
        pin: whether micro-batches come in page-locked memory, from which a GPU copies meanwhile.
    """

    def __init__(
        self,
        assemblers: Sequence[Assembles],
        share: Share,
        *,
        cost: Cost,
        balance: bool = True,
        sum_over_ranks: SumOverRanks = lambda values: values,
        prefetch: int = 1,
        min_users: int = 1,
        pin: bool = False,
    ) -> None:
        self.share = share
        self._assemblers = list(assemblers)
        # One thread each. In this process more would not help, for the tree code holds the
        # interpreter lock; for another process the thread waits at the pipe.
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="assemble") for _ in assemblers]
        self._cost = cost
        self._balance = balance
        self._sum_over_ranks = sum_over_ranks
        self._prefetch = prefetch
        self._pin = pin
        self._measuring: dict[int, Future[NDArray[np.int64]]] = {}
        self._dealt: dict[int, _Dealt] = {}
        self._waited = 0.0
        self._min_users = min_users
        self._told: set[str] = set()

    def take(self, step: int) -> StepBatches:
        """This rank's micro-batches of a step.

        Raises:
            DataError: a tree could not be assembled.
            TrainingError: a process that assembles is gone.
        """
        self._waited = 0.0
        dealt_until = step + self._prefetch
        self._forget_all_but(range(step, dealt_until + 2))
        # Measured one step further than dealt: done by the time that the ranks talk about it.
        for number in range(step, dealt_until + (2 if self._prefetch else 1)):
            if number not in self._dealt and number not in self._measuring:
                mine = self.share.trees(number)[self.share.rank :: self.share.world_size]
                self._measuring[number] = self._submit(number, "measure", mine)
        for number in range(step, dealt_until + 1):
            if number not in self._dealt:
                self._dealt[number] = self._deal(number)
        dealt = self._dealt.pop(step)
        self._tell(step, dealt)
        return StepBatches(
            batches=self._wait(dealt.batches),
            trees=dealt.trees,
            waited=self._waited,
            imbalance=dealt.imbalance,
            imbalance_strided=dealt.imbalance_strided,
            dropped_events=int(dealt.dropped_N.sum()),
            shortened_trees=int(np.count_nonzero(dealt.dropped_N)),
            users=dealt.users,
        )

    def _deal(self, step: int) -> _Dealt:
        """Tell the ranks each other's sizes, share the step out, and set out to pack our part."""
        share = self.share
        mine_N5 = np.zeros((share.global_batch, len(Size._fields)))
        mine_N5[share.rank :: share.world_size] = self._wait(self._measuring.pop(step))
        sizes_N5 = self._sum_over_ranks(mine_N5).astype(np.int64)
        costs_N = self._cost.costs(sizes_N5)
        plain = strided(share.global_batch, share.world_size, share.micro_batches)
        split = plain
        if self._balance:
            split = balanced(sizes_N5, self._cost, share.world_size, share.micro_batches)
        trees = [[share.trees(step)[place] for place in part] for part in split[share.rank]]
        return _Dealt(
            trees=trees,
            batches=self._submit(step, "pack", trees),
            imbalance=imbalance(costs_N, split),
            imbalance_strided=imbalance(costs_N, plain),
            dropped_N=sizes_N5[:, Size._fields.index("dropped_events")],
            users=len(set(sizes_N5[:, Size._fields.index("user")].tolist()) - {-1}),
        )

    def _tell(self, step: int, dealt: _Dealt) -> None:
        """Say what is not as asked for the first time that it happens, and not again."""
        if dealt.dropped_N.any() and "dropped" not in self._told:
            self._told.add("dropped")
            log.info(
                "step %d: %d of %d trunks were too long, and %d of their oldest events were "
                "dropped. summary.json will count those of all steps; mixture.max_trunk_tokens and "
                "the model's positions are the bounds",
                step + 1,
                np.count_nonzero(dealt.dropped_N),
                len(dealt.dropped_N),
                dealt.dropped_N.sum(),
            )
        few = dealt.users < self._min_users > 1  # one is no demand: a step may be of items only
        if few and "users" not in self._told:
            self._told.add("users")
            log.warning(
                "step %d has %d different users in its %d trees, but min_users_per_step=%d: some "
                "trees share a user, or are about items only. Raise global_batch_size; "
                "users_per_step in metrics.jsonl is the mean",
                step + 1,
                dealt.users,
                self.share.global_batch,
                self._min_users,
            )

    def _submit(self, step: int, method: str, trees: Sequence[object]) -> Future[Any]:
        """Have the step's assembler do something: always the same one, which keeps its trees."""
        place = step % len(self._assemblers)
        return self._threads[place].submit(self._call, place, method, step, trees)

    def _call(self, place: int, method: str, step: int, trees: Sequence[object]) -> object:
        answer = getattr(self._assemblers[place], method)(step, trees)
        return [pinned(batch) for batch in answer] if self._pin and method == "pack" else answer

    def _wait(self, future: Future[T]) -> T:
        began = time.perf_counter()
        try:
            return future.result()
        finally:
            self._waited += time.perf_counter() - began

    def _forget_all_but(self, wanted: range) -> None:
        """Drop what was assembled for steps that are not to come, as after a jump."""
        for number in [number for number in self._measuring if number not in wanted]:
            self._measuring.pop(number).cancel()
        for number in [number for number in self._dealt if number not in wanted]:
            self._dealt.pop(number).batches.cancel()

    def close(self) -> None:
        """Stop assembling."""
        for thread, assembler in zip(self._threads, self._assemblers, strict=True):
            thread.shutdown(wait=False, cancel_futures=True)
            assembler.close()
            thread.shutdown(wait=True)
        self._measuring.clear()
        self._dealt.clear()


def pinned(batch: MicroBatch) -> MicroBatch:
    """A micro-batch in page-locked memory; tensors made of its arrays know that they are."""
    arrays = {
        field.name: torch.from_numpy(getattr(batch, field.name)).pin_memory().numpy()
        for field in fields(batch)
    }
    return MicroBatch(**arrays)
