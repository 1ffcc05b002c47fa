"""Windows of events along a trunk: cheap on very long histories, and not exact (layout L1w).

Each event of a trunk sees only the n events before it, its own earlier tokens, and the profile in
front of the first event; a branch counts as one more event at the place where it is attached. This
is the windowed causal attention of Dynamic Target Isolation (Lin et al. 2025, arXiv 2503.01001).

It equals a prompt per target over the last n events, with the positions that these have in the
whole history, only in a model of one layer. With more, the keys that a query sees were themselves
computed from events outside its window: the paper's hidden-state leakage, which
`modeling.forgetting` dampens. Rotary position embeddings see relative distances only, so the
paper's other fix, for absolute positions, has nothing to do here.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

Runs = tuple[tuple[int, int], ...]
"""Trunk tokens from the first number to before the second, several times; in order, apart."""


@dataclass(frozen=True)
class EventWindow:
    """How far back along one trunk its tokens and branches see."""

    starts: tuple[int, ...]
    """Of each event, the trunk position of its first token; what is before is the profile."""
    size: int
    """n: the events before one's own that are seen."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a window of {self.size} events shows no history: give 1 at least")
        if not self.starts or self.starts[0] < 0:
            raise ValueError("a window needs the trunk positions at which its events start")
        if any(after <= before for before, after in pairwise(self.starts)):
            raise ValueError("the starts of a window's events must grow: an event has a token")

    def seen(self, start: int, stop: int) -> Runs:
        """What of the trunk before `stop` an event or branch sees that begins at `start`."""
        before = bisect_left(self.starts, start)
        if before <= self.size:
            return ((0, stop),) if stop else ()
        window = (self.starts[before - self.size], stop)
        return ((0, self.starts[0]), window) if self.starts[0] else (window,)

    def parts(self, first: int, stop: int) -> Iterator[tuple[int, int, Runs]]:
        """The trunk's tokens `first` to before `stop`, in parts that see the same before them.

        Yields:
            (first, stop) of a part, and what its tokens see of the trunk before the part.
        """
        edges = [start for start in self.starts[self.size + 1 :] if first < start < stop]
        for part_first, part_stop in pairwise([first, *edges, stop]):
            event = bisect_right(self.starts, part_first) - 1
            event_start = self.starts[event] if event >= 0 else 0
            yield part_first, part_stop, self.seen(event_start, part_first)
