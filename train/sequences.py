"""Users' histories as item sequences, and the full-catalog ranking of what came next.

Shapes: E events (grouped by user, oldest first), U users, N items, B targets, L positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore

Scorer: TypeAlias = Callable[[Sequence[npt.NDArray[np.int32]]], npt.NDArray[np.float32]]
"""Histories -> scores `[B, N]` of every item as the next one."""

SCORING_BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class NextItemTargets:
    """Events to predict, each with the history that is strictly older than it."""

    user_B: npt.NDArray[np.int32]
    """User row of each target: the unit of a bootstrap."""
    start_B: npt.NDArray[np.int64]
    """First event row of the history."""
    cut_B: npt.NDArray[np.int64]
    """Event row behind the last of the history: the first one not older than the target."""
    item_B: npt.NDArray[np.int32]
    """Item to be ranked first."""
    n_without_history: int
    """Events of the same phase left out, because nothing older is known of their user."""

    def __len__(self) -> int:
        return len(self.item_B)

    def sample(self, most: int, seed: int) -> "NextItemTargets":
        """At most `most` of the targets, drawn without replacement by `seed`, in their order."""
        if len(self) <= most:
            return self
        generator = np.random.Generator(np.random.Philox(key=[seed, len(self)]))
        rows = np.sort(generator.choice(len(self), size=most, replace=False))
        return NextItemTargets(
            user_B=self.user_B[rows],
            start_B=self.start_B[rows],
            cut_B=self.cut_B[rows],
            item_B=self.item_B[rows],
            n_without_history=self.n_without_history,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceData:
    """What a sequence model trains on and is selected by."""

    n_items: int
    item_E: npt.NDArray[np.int32]
    """Item of every event of every phase: histories are slices of it."""
    train_item_E: npt.NDArray[np.int32]
    """Items of TRAIN events, user after user."""
    train_offsets_U1: npt.NDArray[np.int64]
    """Where each user's TRAIN events start and end in `train_item_E`."""
    validation: NextItemTargets
    test: NextItemTargets

    @classmethod
    def from_store(cls, store: TokenStore) -> Self:
        """TRAIN events as sequences, those of VALIDATION and TEST as targets."""
        return cls.from_events(
            n_items=store.n_items,
            user_offsets_U1=store.user_offsets_U1,
            item_E=store.event_item_E,
            time_E=store.event_time_E,
            phase_E=store.event_phase_E,
        )

    @classmethod
    def from_events(
        cls,
        *,
        n_items: int,
        user_offsets_U1: npt.NDArray[np.int64],
        item_E: npt.NDArray[np.int32],
        time_E: npt.NDArray[np.int64],
        phase_E: npt.NDArray[np.int8],
    ) -> Self:
        """The same from plain arrays, events grouped by user and ordered by time.

        Raises:
            ValueError: if no event is in the TRAIN phase.
        """
        is_train_E = np.asarray(phase_E) == Phase.TRAIN
        if not is_train_E.any():
            raise ValueError(
                "the store has no TRAIN events, so there is nothing to fit a student on; "
                "build it with a split that leaves some (validation_share, test_share)"
            )
        before_E1 = np.concatenate([[0], np.cumsum(is_train_E)])
        offsets_U1 = np.asarray(user_offsets_U1, dtype=np.int64)
        validation, test = (
            _targets(offsets_U1, item_E, time_E, np.asarray(phase_E) == phase)
            for phase in (Phase.VALIDATION, Phase.TEST)
        )
        return cls(
            n_items=n_items,
            item_E=np.asarray(item_E, dtype=np.int32),
            train_item_E=np.asarray(item_E, dtype=np.int32)[is_train_E],
            train_offsets_U1=before_E1[offsets_U1],
            validation=validation,
            test=test,
        )

    def histories(
        self, targets: NextItemTargets, rows: npt.NDArray[np.int64] | slice
    ) -> list[npt.NDArray[np.int32]]:
        """Item rows of the chosen targets' histories, oldest first."""
        pairs = zip(targets.start_B[rows], targets.cut_B[rows], strict=True)
        return [self.item_E[start:cut] for start, cut in pairs]


def _targets(
    offsets_U1: npt.NDArray[np.int64],
    item_E: npt.NDArray[np.int32],
    time_E: npt.NDArray[np.int64],
    wanted_E: npt.NDArray[np.bool_],
) -> NextItemTargets:
    E = len(item_E)
    user_E = np.repeat(np.arange(len(offsets_U1) - 1, dtype=np.int32), np.diff(offsets_U1))
    # Events of one user in the same millisecond know nothing of each other: the history of each
    # ends where their group begins.
    opens_group_E = np.ones(E, dtype=bool)
    opens_group_E[1:] = (np.diff(time_E) != 0) | (np.diff(user_E) != 0)
    cut_E = np.maximum.accumulate(np.where(opens_group_E, np.arange(E), 0))
    start_E = offsets_U1[:-1][user_E]
    rows = np.flatnonzero(wanted_E & (cut_E > start_E))
    return NextItemTargets(
        user_B=user_E[rows],
        start_B=start_E[rows],
        cut_B=cut_E[rows],
        item_B=np.asarray(item_E, dtype=np.int32)[rows],
        n_without_history=int(wanted_E.sum()) - len(rows),
    )


def training_windows(
    data: SequenceData, max_length: int, batch_size: int, generator: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Windows of one epoch as (inputs, targets) `[B, L]`: every TRAIN event is a target once.

    L is at most `max_length`: columns that no window of the batch reaches are dropped.
    Every sequence is cut from a random phase, so that an event meets every position over the
    epochs. Its first event is predicted from padding alone: that is what an empty history is.
    """
    L, padding = max_length, data.n_items
    windows: list[tuple[int, int, int]] = []  # first event of the sequence, first target, stop
    for first, stop in zip(data.train_offsets_U1[:-1], data.train_offsets_U1[1:], strict=True):
        if first == stop:
            continue
        ends = np.arange(first + int(generator.integers(1, L + 1)), stop, L)
        bounds = [int(first), *ends.tolist(), int(stop)]
        windows += [(int(first), start, end) for start, end in pairwise(bounds)]
    order = generator.permutation(len(windows))
    for start in range(0, len(order), batch_size):
        batch = [windows[index] for index in order[start : start + batch_size]]
        # Inputs reach back before the window as far as the row is wide.
        known = [data.train_item_E[max(first, end - 1 - L) : end - 1] for first, _, end in batch]
        wanted = [data.train_item_E[begin:end] for _, begin, end in batch]
        width = max(map(len, (*known, *wanted)))
        yield _right_aligned(known, width, padding), _right_aligned(wanted, width, padding)


@dataclass(frozen=True, kw_only=True, slots=True)
class NextItemRanks:
    """Where the full ranking of the catalog put each target; rank 1 is best."""

    user_B: npt.NDArray[np.int32]
    rank_B: npt.NDArray[np.int64]

    def hits(self, k: int) -> npt.NDArray[np.float64]:
        """1 for a target among the first `k`, per target; the mean is HR@k."""
        return (self.rank_B <= k).astype(np.float64)

    def ndcg(self, k: int) -> npt.NDArray[np.float64]:
        """`1 / log2(1 + rank)` within the first `k`, per target; the mean is NDCG@k."""
        return np.where(self.rank_B <= k, 1.0 / np.log2(1.0 + self.rank_B), 0.0)


def rank_targets(
    score: Scorer,
    data: SequenceData,
    targets: NextItemTargets,
    *,
    exclude_history: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> NextItemRanks:
    """Rank every target among all items of the catalog.

    An item of equal score stands before the target, so that a scorer which says the same of
    everything earns nothing. Items of the history leave the ranking when `exclude_history`, except
    the target itself.

    Raises:
        ValueError: if a score is not finite or the scorer answers another shape.
    """
    ranks: list[npt.NDArray[np.int64]] = []
    for rows in _slices(len(targets), SCORING_BATCH):
        histories = data.histories(targets, rows)
        items_b = targets.item_B[rows]
        scores_bN = np.array(score(histories), dtype=np.float32)
        if scores_bN.shape != (len(items_b), data.n_items) or not np.isfinite(scores_bN).all():
            raise ValueError(
                f"the scorer answered {scores_bN.shape} for {len(items_b)} histories and "
                f"{data.n_items} items, or a score that is not finite"
            )
        at = np.arange(len(items_b))
        of_target_b = scores_bN[at, items_b].copy()
        if exclude_history:
            for row, history in enumerate(histories):
                scores_bN[row, history] = -np.inf
        scores_bN[at, items_b] = of_target_b
        ranks.append((scores_bN >= of_target_b[:, None]).sum(1).astype(np.int64))
        if progress is not None:
            progress(min(rows.stop, len(targets)), len(targets))
    return NextItemRanks(
        user_B=targets.user_B,
        rank_B=np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64),
    )


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, step))


def pad_left(
    histories: Sequence[npt.NDArray[np.integer]], length: int, padding: int
) -> npt.NDArray[np.int64]:
    """The newest `length` items of each history, right-aligned, `[B, length]`.

    Columns that no history reaches are dropped, but one stays.
    """
    longest = max((len(history) for history in histories), default=1) or 1
    return _right_aligned(histories, min(length, longest), padding)


def _right_aligned(
    rows: Sequence[npt.NDArray[np.integer]], width: int, padding: int
) -> npt.NDArray[np.int64]:
    items_BL = np.full((len(rows), width), padding, dtype=np.int64)
    for row, items in enumerate(rows):
        if len(items):
            newest = np.asarray(items[-width:])
            items_BL[row, -len(newest) :] = newest
    return items_BL
