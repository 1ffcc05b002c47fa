"""Deals the indices of a mixture among its parts: in exact shares, each with a count of its own."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import Draws

ROUND: Final = 4096
"""Indices of a round; shares are multiples of 1 / ROUND."""

_FIRST_ROUND: Final = 1 << 62
"""Rounds draw from indices that no tree has."""


class Dealing:
    """Which part an index belongs to, and how many indices of that part came before it.

    Every round of ROUND indices holds each part exactly as often as every other round does, in an
    order of its own. So the state is the index alone, and a part walks its own epochs without a
    gap, whatever the other parts do.

    Args:
        weights: of the parts; one that is not 0 gets an index of every round at least.
        seed: of the order.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._counts = _apportioned(weights, ROUND)
        self._parts_R = np.repeat(np.arange(len(weights)), self._counts)
        self._seed = seed
        # A round's order is a function of its number; the last ones are kept, as indices rise.
        self._order = lru_cache(maxsize=8)(self._order_of)

    def deal(self, index: int) -> tuple[int, int]:
        """Return the part of an index, and the index within the part."""
        number, place = divmod(index, ROUND)
        parts_R, turns_R = self._order(number)
        part = int(parts_R[place])
        return part, number * self._counts[part] + int(turns_R[place])

    def _order_of(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The part of each place of a round, and how often it came before in this round."""
        draws = Draws(self._seed, _FIRST_ROUND + number)
        mixed_R = np.argsort(draws.floats(ROUND), kind="stable")
        parts_R = self._parts_R[mixed_R]
        turns_R = np.empty(ROUND, np.int64)
        for part, count in enumerate(self._counts):
            turns_R[parts_R == part] = np.arange(count)
        return parts_R, turns_R


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
