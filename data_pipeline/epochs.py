"""The epochs of one corpus: which blocks of which users' events come, and in what order.

A block is a run of `targets_per_tree` events of a user: the window that a tree asks about. An epoch
shows the chosen blocks once each, in an order of its own. Where a cap leaves out some of a user's
blocks, the next epochs choose others: all of them come equally often.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import permuted

_USER_SEEDS: Final = 1_000_003


class Epochs:
    """Chooses the block of an index: a pure function of index and seed.

    Args:
        events_U: training events of each user.
        window: events of a block.
        newest_only: a user has one block, whatever the history.
        per_user: targets of a user in an epoch at most; None: all.
    """

    def __init__(
        self,
        events_U: NDArray[np.int64],
        window: int,
        *,
        newest_only: bool = False,
        per_user: int | None = None,
    ) -> None:
        # The branches of a tree are as many as its window has events, at most.
        blocks_U = -(-events_U // window)
        self._blocks_U = np.minimum(blocks_U, 1) if newest_only else blocks_U
        most = None if per_user is None else max(1, per_user // window)
        chosen_U = self._blocks_U if most is None else np.minimum(self._blocks_U, most)
        self._chosen_ends_U = np.cumsum(chosen_U)
        self.length = int(self._chosen_ends_U[-1]) if len(events_U) else 0
        """Trees of an epoch."""

    def block(self, index: int, seed: int) -> tuple[int, int]:
        """Return the user of an index, and which of the user's blocks."""
        epoch, place = divmod(index, self.length)
        chosen = permuted(place, self.length, seed + epoch)
        user = int(np.searchsorted(self._chosen_ends_U, chosen, side="right"))
        before = int(self._chosen_ends_U[user - 1]) if user else 0
        n_chosen, n_blocks = int(self._chosen_ends_U[user]) - before, int(self._blocks_U[user])
        turn = chosen - before
        if n_chosen == n_blocks:
            return user, turn
        # The epochs take turns along one fixed order of the user's blocks.
        place = (epoch * n_chosen + turn) % n_blocks
        return user, permuted(place, n_blocks, seed + _USER_SEEDS * (user + 1))
