"""Where the trunks and branches of a packed row lie.

A micro-batch is one row of T tokens: trunk, its branches, next trunk, its branches, ... A branch
token sees the trunk up to the point where its branch is attached, and the earlier tokens of its own
branch, nothing else; its positions restart at that point. The same words describe all layouts:

    L0    one prompt per target: trees of one branch, or of a trunk alone
    L1    a trunk alone, supervised along its way
    L2    a trunk with its branches behind it
    tree  L1 and L2 together, with branches attached along the trunk

While scoring, the first tokens of a trunk may lie in `TrunkStates` and not in the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling.tree_windows import EventWindow, Runs

Lengths = tuple[int, ...]


class Piece(NamedTuple):
    """A run of the row: a trunk (without its cached tokens) or a branch."""

    tree: int
    branch: int
    """0 is the trunk; branches count from 1."""
    start: int
    """Index of its first token in the row."""
    length: int
    """Tokens in the row; 0 for an empty trunk, or for one that is cached whole."""
    attach: int
    """Trunk tokens that stand before its first token: its first position."""


@dataclass(eq=False)
class LayoutState:
    """What a layout remembers: how many layers have used it, and what kernels made of it."""

    uses: int = 0
    plans: dict[Any, Any] = field(default_factory=dict)
    """By kernel and device: whatever a kernel builds once and needs in every layer."""


@dataclass(frozen=True)
class TreeLayout:
    """Lengths of the trees of a row.

    A trunk may be empty, a tree may have no branch, a branch may be longer than its trunk.

    Attributes:
        trunk_lengths: tokens of each trunk, cached ones included.
        branch_lengths: tokens of each tree's branches.
        attach: for each branch, how many of its trunk's tokens it sees; None: all of them.
        cached_lengths: for each tree, how many of its trunk's first tokens are held in
            `TrunkStates` and left out of the row; None: none.
        windows: for each tree, how few events of its trunk are seen (not exact; None: all).
    """

    trunk_lengths: Lengths
    branch_lengths: tuple[Lengths, ...]
    attach: tuple[Lengths, ...] | None = None
    cached_lengths: Lengths | None = None
    windows: tuple[EventWindow | None, ...] | None = None
    state: LayoutState = field(default_factory=LayoutState, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.trunk_lengths) != len(self.branch_lengths):
            raise ValueError(
                f"a tree layout has one tuple of branch lengths per trunk: got "
                f"{len(self.trunk_lengths)} trunks and {len(self.branch_lengths)} tuples"
            )
        for tree, (trunk, branches) in enumerate(
            zip(self.trunk_lengths, self.branch_lengths, strict=True)
        ):
            if trunk < 0:
                raise ValueError(f"tree {tree} has a trunk of {trunk} tokens; the least is 0")
            if branches and min(branches) < 1:
                raise ValueError(
                    f"tree {tree} has a branch of {min(branches)} tokens; a branch needs one token "
                    f"at least, since its answer is predicted at a token of its own"
                )
        self._check_attach()
        self._check_cached()
        self._check_windows()
        if self.n_tokens == 0:
            raise ValueError("a tree layout of 0 tokens: give it one trunk or branch at least")

    def _check_attach(self) -> None:
        if self.attach is None:
            return
        if list(map(len, self.attach)) != list(map(len, self.branch_lengths)):
            raise ValueError("attach gives one trunk length for every branch of every tree")
        for tree, (points, trunk) in enumerate(zip(self.attach, self.trunk_lengths, strict=True)):
            if points and not 0 <= min(points) <= max(points) <= trunk:
                raise ValueError(
                    f"tree {tree} has a branch attached behind token {max(points)} (the least is "
                    f"{min(points)}) of a trunk of {trunk} tokens: attach lies within 0 to {trunk}"
                )

    def _check_cached(self) -> None:
        if self.cached_lengths is None:
            return
        if len(self.cached_lengths) != len(self.trunk_lengths):
            raise ValueError("cached_lengths gives one length for every tree")
        for tree, (cached, trunk) in enumerate(
            zip(self.cached_lengths, self.trunk_lengths, strict=True)
        ):
            if not 0 <= cached <= trunk:
                raise ValueError(
                    f"tree {tree} has {cached} cached tokens of a trunk of {trunk}: the cache "
                    f"holds a trunk's first tokens, so 0 to {trunk}"
                )

    def _check_windows(self) -> None:
        if self.windows is None:
            return
        if len(self.windows) != len(self.trunk_lengths):
            raise ValueError("windows gives one window, or None, for every tree")
        for tree, (window, trunk) in enumerate(zip(self.windows, self.trunk_lengths, strict=True)):
            if window is not None and window.starts[-1] >= trunk:
                raise ValueError(
                    f"tree {tree} has an event that starts at token {window.starts[-1]} of a "
                    f"trunk of {trunk} tokens"
                )

    @classmethod
    def from_arrays(
        cls,
        trunk_lengths: Sequence[int] | np.ndarray | torch.Tensor,
        branch_counts: Sequence[int] | np.ndarray | torch.Tensor,
        branch_lengths: Sequence[int] | np.ndarray | torch.Tensor,
        attach: Sequence[int] | np.ndarray | torch.Tensor | None = None,
        windows: Sequence[EventWindow | None] = (),
    ) -> "TreeLayout":
        """Build from flat integers: per tree its trunk and number of branches, then all branches.

        Raises:
            ValueError: the counts do not add up to the number of branches.
        """
        trunks, counts, lengths = (
            [int(x) for x in values] for values in (trunk_lengths, branch_counts, branch_lengths)
        )
        points = None if attach is None else [int(x) for x in attach]
        if len(trunks) != len(counts) or sum(counts) != len(lengths) or min(counts, default=0) < 0:
            raise ValueError(
                f"branch counts must be one per trunk and add up to the branches: got "
                f"{len(trunks)} trunks, {len(counts)} counts that sum to {sum(counts)}, "
                f"{len(lengths)} branches"
            )
        if points is not None and len(points) != len(lengths):
            raise ValueError(f"got {len(points)} attach points for {len(lengths)} branches")
        return cls(
            tuple(trunks),
            _split(lengths, counts),
            None if points is None else _split(points, counts),
            windows=tuple(windows) if any(windows) else None,
        )

    @property
    def n_tokens(self) -> int:
        """T, the length of the row: cached tokens do not count."""
        whole = sum(self.trunk_lengths) + sum(map(sum, self.branch_lengths))
        return whole - sum(self.cached_lengths or ())

    @property
    def longest_path(self) -> int:
        """Tokens of the longest prompt: a trunk, or a branch with the trunk that it sees."""
        ends = [piece.attach + piece.length for piece in self.pieces()]
        return max([*ends, *self.trunk_lengths])

    @property
    def uses(self) -> int:
        """How many attention layers have followed this layout so far."""
        return self.state.uses

    @property
    def attention_pairs(self) -> int:
        """Queries of the row and keys that see each other: what exact attention must compute."""
        return sum(
            piece.length * (piece.length + 1) // 2
            + piece.length * sum(stop - first for first, stop in seen)
            for piece, seen in self.segments()
        )

    def pieces(self) -> Iterator[Piece]:
        """Trunks and branches in row order."""
        start = 0
        for tree, (trunk, branches) in enumerate(
            zip(self.trunk_lengths, self.branch_lengths, strict=True)
        ):
            cached = self.cached_lengths[tree] if self.cached_lengths else 0
            yield Piece(tree, 0, start, trunk - cached, cached)
            start += trunk - cached
            points = self.attach[tree] if self.attach else (trunk,) * len(branches)
            for branch, (length, point) in enumerate(zip(branches, points, strict=True), start=1):
                yield Piece(tree, branch, start, length, point)
                start += length

    def segments(self) -> Iterator[tuple[Piece, Runs]]:
        """Runs of the row that see the same tokens before them, in row order.

        These are the pieces; only a trunk with a window falls into parts, of which each is a
        piece with `attach` as its first position.

        Yields:
            A piece, and the runs of its trunk's tokens, cached ones included, that stand before
            it and are seen by all of it.
        """
        for piece in self.pieces():
            window = self.windows[piece.tree] if self.windows else None
            if window is None:
                yield piece, ((0, piece.attach),) if piece.attach else ()
            elif piece.branch:
                yield piece, window.seen(piece.attach, piece.attach)
            else:
                shift = piece.start - piece.attach
                for first, stop, seen in window.parts(piece.attach, piece.attach + piece.length):
                    yield (
                        piece._replace(start=first + shift, length=stop - first, attach=first),
                        seen,
                    )

    def positions(self) -> torch.Tensor:
        """Position ids, int64 [T]: 0..P-1 along a trunk; a branch starts at its attach point."""
        pieces = list(self.pieces())
        lengths = np.array([piece.length for piece in pieces], np.int64)
        shifts = np.array([piece.attach - piece.start for piece in pieces], np.int64)
        return torch.from_numpy(np.arange(lengths.sum()) + np.repeat(shifts, lengths))

    def dense_mask(self) -> torch.Tensor:
        """Which key (column) a query (row) sees, bool [T, T]; quadratic, for small rows.

        Raises:
            ValueError: a part of a trunk is cached, so that its keys are not in the row.
        """
        if any(self.cached_lengths or ()):
            raise ValueError("a layout with cached trunks has no mask over its row alone")
        pieces = list(self.pieces())
        repeats = torch.tensor([piece.length for piece in pieces])
        tree_T, branch_T, attach_T = (
            torch.tensor(values).repeat_interleave(repeats)
            for values in (
                [piece.tree for piece in pieces],
                [piece.branch for piece in pieces],
                [piece.attach for piece in pieces],
            )
        )
        same_tree_TT = tree_T[:, None] == tree_T[None, :]
        own_TT = branch_T[:, None] == branch_T[None, :]
        trunk_TT = (branch_T[None, :] == 0) & (self.positions()[None, :] < attach_T[:, None])
        causal_TT = torch.ones(self.n_tokens, self.n_tokens, dtype=torch.bool).tril()
        seen_TT = same_tree_TT & (own_TT | trunk_TT) & causal_TT
        return seen_TT & self._within_windows() if self.windows else seen_TT

    def _within_windows(self) -> torch.Tensor:
        """Bool [T, T]: whether the key is not of an event too far back; events count from 1."""
        events, sizes, trunk = [], [], []
        for piece in self.pieces():
            window = self.windows[piece.tree] if self.windows else None
            starts = np.array(window.starts if window else ())
            if piece.branch:
                events.append(np.full(piece.length, (starts < piece.attach).sum() + 1))
            else:
                events.append(np.searchsorted(starts, np.arange(piece.length), side="right"))
            sizes.append(np.full(piece.length, window.size if window else self.n_tokens))
            trunk.append(np.full(piece.length, piece.branch == 0))
        event_T, size_T, trunk_T = (
            torch.from_numpy(np.concatenate(x)) for x in (events, sizes, trunk)
        )
        near_TT = event_T[None, :] >= (event_T - size_T)[:, None]
        return near_TT | ((event_T == 0) | ~trunk_T)[None, :]


def _split(values: Sequence[int], counts: Sequence[int]) -> tuple[Lengths, ...]:
    rest = iter(values)
    return tuple(tuple(next(rest) for _ in range(count)) for count in counts)
