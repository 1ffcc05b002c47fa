"""Which rank computes which trees of a step, so that all are done at the same time.

Ranks wait for each other after every micro-batch, so a step takes as long as the costliest
micro-batch of each turn. Equal numbers of trees, or of tokens, are not equal work: attention grows
with the square of a trunk, and the head runs at labels only.

Shapes: N trees of a step, in the order of their indices.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.packing import Layout, laid_out
from data_pipeline.tree import Tree

Split = list[list[list[int]]]
"""For each rank, for each of its micro-batches: trees, as their places in the step."""

_MOST_USERS: Final = 2**32
"""Of a corpus. A float64, as which sizes travel between ranks, holds 2^21 times as much."""


class Size(NamedTuple):
    """What a tree adds to a micro-batch, what its trunk had no room for, and whose it is."""

    tokens: int
    labels: int
    pairs: int
    """Queries and keys that see each other."""
    dropped_events: int
    user: int
    """A number of its own for each user of each corpus; -1 where the tree is about items only."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a micro-batch costs: any unit, of which only the ratios count.

    Attributes:
        per_token: of the layers, for each token.
        per_label: of the output head, which runs at label positions only.
        per_pair: of attention, for each query and key that sees it, over all layers.
    """

    per_token: float
    per_label: float = 0.0
    per_pair: float = 0.0

    def costs(self, sizes_N5: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of each tree, given its `Size`; shape [N]."""
        rates = np.array([self.per_token, self.per_label, self.per_pair])
        costs_N: NDArray[np.float64] = sizes_N5[:, :3] @ rates
        return costs_N


def size_of(tree: Tree, layout: Layout = "L2") -> Size:
    """Count a tree as a micro-batch would hold it."""
    tokens = labels = pairs = 0
    for part in laid_out([tree], layout):
        trunk = len(part.trunk)
        tokens += trunk
        labels += len(part.trunk_labels.positions)
        pairs += trunk * (trunk + 1) // 2
        for branch in part.branches:
            own, before = len(branch.tokens), len(part.before(branch))
            tokens += own
            labels += len(branch.answer)
            pairs += own * before + own * (own + 1) // 2
    user = -1 if tree.moment.user < 0 else tree.corpus * _MOST_USERS + tree.moment.user
    return Size(tokens, labels, pairs, tree.dropped_events, user)


def strided(n_trees: int, ranks: int, micro_batches: int) -> Split:
    """Rank r takes every R-th tree from r on, and cuts what it took in order."""
    size = n_trees // (ranks * micro_batches)
    return [
        [list(range(n_trees)[rank::ranks][m * size : (m + 1) * size]) for m in range(micro_batches)]
        for rank in range(ranks)
    ]


def balanced(sizes_N5: NDArray[np.int64], cost: Cost, ranks: int, micro_batches: int) -> Split:
    """Give every micro-batch equally many trees of equal cost in sum, as nearly as is quick.

    No micro-batch has more tokens than the largest of `strided`, so that balance costs no memory.
    Where equal costs would take more, tokens are made equal instead.
    """
    plain = strided(len(sizes_N5), ranks, micro_batches)
    for rates in (cost, Cost(per_token=1.0)):
        split = _equal_turns(rates.costs(sizes_N5), ranks, micro_batches)
        if _most_tokens(sizes_N5, split) <= _most_tokens(sizes_N5, plain):
            return split
    return plain


def _equal_turns(costs_N: NDArray[np.float64], ranks: int, micro_batches: int) -> Split:
    parts = equal_parts(costs_N.tolist(), ranks * micro_batches)
    # Micro-batches of one turn are those next to each other in cost, the costliest first: memory
    # that suffices for the first turn suffices for the step. Every other turn runs backwards, so
    # that no rank has the costlier one each time.
    parts.sort(key=lambda part: (-costs_N[part].sum(), part))
    turns = [parts[first : first + ranks] for first in range(0, len(parts), ranks)]
    return [
        [sorted(turn[rank if m % 2 == 0 else -1 - rank]) for m, turn in enumerate(turns)]
        for rank in range(ranks)
    ]


def imbalance(costs_N: NDArray[np.float64], split: Split) -> float:
    """How much longer a step takes than if every micro-batch cost the same; 1 is perfect."""
    costs_RM = np.array([[costs_N[part].sum() for part in parts] for parts in split])
    return float(costs_RM.max(axis=0).sum() / costs_RM.mean(axis=0).sum())


def equal_parts(costs: Sequence[float], n_parts: int) -> list[list[int]]:
    """Divide numbers among parts of equal count and nearly equal sum.

    The balanced largest differencing method (Michiels, Korst, Aarts and van Leeuwen 2003, after
    Karmarkar and Karp 1982). Neighbours in order of cost, `n_parts` at a time, start as partial
    solutions of one number per part; again and again the two with the widest gaps between their
    parts become one, the heaviest part of one joined with the lightest of the other.

    Args:
        costs: a multiple of `n_parts` of them.
        n_parts: how many.

    Returns:
        Places in `costs`, for each part.
    """
    order = sorted(range(len(costs)), key=lambda place: (costs[place], place))
    ticket = count()  # decides among equal gaps, so that every process finds the same
    heap: list[tuple[float, int, list[tuple[float, list[int]]]]] = []

    def push(parts: list[tuple[float, list[int]]]) -> None:
        parts.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (parts[-1][0] - parts[0][0], next(ticket), parts))

    for first in range(0, len(order), n_parts):
        push([(costs[place], [place]) for place in order[first : first + n_parts]])
    while len(heap) > 1:
        one, other = heapq.heappop(heap)[2], heapq.heappop(heap)[2]
        push([(a + b, mine + its) for (a, mine), (b, its) in zip(one, other[::-1], strict=True)])
    return [places for _, places in heap[0][2]]


def _most_tokens(sizes_N5: NDArray[np.int64], split: Split) -> int:
    """Tokens of the largest micro-batch."""
    return max(int(sizes_N5[part, 0].sum()) for parts in split for part in parts)
