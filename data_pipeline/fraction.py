"""A fraction of the users: which of them a run learns from. Shape: U users."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import Draws
from data_pipeline.errors import DataError
from data_pipeline.store import TokenStore

_CHOOSING: Final = 1 << 61
"""Users are drawn from an index that no tree and no round of a mixture has."""


def training_events(store: TokenStore, fraction: float, seed: int) -> NDArray[np.int64]:
    """Return how many training events each user is learned from by; 0 for users left out.

    A user is chosen by a number in [0, 1) that follows from seed and row alone: of one seed a
    smaller fraction is a part of a larger one, and 1 is everybody.

    Raises:
        DataError: nobody is left of those who have training events.
    """
    events_U = store.train_stops_U - store.user_offsets_U1[:-1]
    chosen_U = Draws(seed, _CHOOSING).floats(len(events_U)) < fraction
    left_U: NDArray[np.int64] = np.where(chosen_U, events_U, 0)
    if events_U.any() and not left_U.any():
        raise DataError(
            f"mixture.user_fraction leaves none of the {np.count_nonzero(events_U):,} users of "
            f"corpus {store.card.corpus_name!r} who have training events",
            value=fraction,
            remedy="raise it",
        )
    return left_U
