"""Deals the indices of a mixture among its parts: in exact shares, each with a count of its own."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from data_pipeline.draws import permuted

ROUND: Final = 4096
"""Indices of a round; shares are multiples of 1 / ROUND."""


class Dealing:
    """Which part an index belongs to, and how many indices of that part came before it.

    Every round of ROUND indices holds each part exactly as often as every other round does, in an
    order that a permutation gives without memory. So the state is the index alone, and a part
    walks its own epochs without a gap, whatever the other parts do.

    Args:
        weights: of the parts; one that is not 0 gets an index of every round at least.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = _apportioned(weights, ROUND)
        self._ends = list(accumulate(self.counts))

    def deal(self, index: int, seed: int) -> tuple[int, int]:
        """Return the part of an index, and the index within the part."""
        number, place = divmod(index, ROUND)
        slot = permuted(place, ROUND, seed + number)
        part = next(part for part, end in enumerate(self._ends) if slot < end)
        count = self.counts[part]
        return part, number * count + slot - (self._ends[part] - count)


def _apportioned(weights: Sequence[float], total: int) -> list[int]:
    """Share out a number in whole parts: the largest remainders are rounded up."""
    whole = sum(weights)
    assert whole > 0, "a mixture asks something"
    exact = [weight / whole * total for weight in weights]
    counts = [max(int(share), int(share > 0)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: counts[part] - exact[part])
    for part in by_remainder[: max(0, total - sum(counts))]:
        counts[part] += 1
    while sum(counts) > total:  # parts too small for an index of their own take from the largest
        counts[counts.index(max(counts))] -= 1
    return counts
