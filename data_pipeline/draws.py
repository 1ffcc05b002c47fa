"""Random draws that depend on (seed, index) alone and are cheap one at a time."""

from bisect import bisect_right
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 256


class Draws:
    """A stream of random numbers for one index of one seed (Philox, a counter-based generator).

    Numpy spends microseconds per scalar; this draws blocks and hands out Python floats.
    """

    def __init__(self, seed: int, index: int) -> None:
        # A Philox key is two 64-bit words; they hold the seed and the index.
        self._generator = np.random.Generator(np.random.Philox(key=[seed % 2**64, index % 2**64]))
        self._floats: list[float] = []

    def random(self) -> float:
        """Return a float in [0, 1)."""
        if not self._floats:
            self._floats = self._generator.random(_BLOCK).tolist()
        return self._floats.pop()

    def below(self, n: int) -> int:
        """Return an integer in [0, n)."""
        return int(self.random() * n)

    def weighted(self, cumulative: Sequence[float]) -> int:
        """Return an index with the probability of its step in a rising list of sums."""
        place = bisect_right(cumulative, self.random() * cumulative[-1])
        return place if place < len(cumulative) else place - 1

    def shuffle(self, values: MutableSequence[Any]) -> None:
        """Put the values in random order, in place."""
        for last in range(len(values) - 1, 0, -1):
            other = int(self.random() * (last + 1))
            values[last], values[other] = values[other], values[last]

    def sample(self, values: Sequence[Any], n: int) -> list[Any]:
        """Return n of the values, or all where there are fewer, in random order."""
        pool = list(values)
        n = min(n, len(pool))
        for first in range(n):
            other = first + int(self.random() * (len(pool) - first))
            pool[first], pool[other] = pool[other], pool[first]
        return pool[:n]

    def floats(self, n: int) -> np.ndarray:
        """Return n floats in [0, 1)."""
        return self._generator.random(n)


def in_random_order(rows: Sequence[int] | NDArray[np.integer[Any]], draws: Draws) -> Iterator[int]:
    """Yield each row once; no list of them is made, for a table may have millions."""
    seed = draws.below(1 << 30)
    return (int(rows[permuted(place, len(rows), seed)]) for place in range(len(rows)))


def permuted(index: int, n: int, seed: int) -> int:
    """Return where a random permutation of range(n), fixed by the seed, sends the index.

    A four-round Feistel network over the next even number of bits, walked until it lands inside
    (Black and Rogaway 2002): no memory, any n.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(right, seed * 4 + turn) & mask)
        value = left << half | right
        if value < n:
            return value


def _mix(value: int, key: int) -> int:
    """Return 64 well-mixed bits (the finaliser of SplitMix64)."""
    mixed = (value * 0x9E3779B97F4A7C15 + key * 0xD1B54A32D192ED03 + 1) & (2**64 - 1)
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & (2**64 - 1)
    return mixed ^ mixed >> 31
