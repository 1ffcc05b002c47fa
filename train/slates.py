"""Slates for a teacher: the true next item among ones that a student could confuse it with.

Shapes: U users, N items, S items of a slate.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore

_NEWEST = 10
"""Events of the history whose neighbours are looked for."""
_MOST_USERS = 2000
"""Users whose histories are read for neighbours: bounds the cost on large corpora."""


class SlateMaker:
    """Makes slates by TRAIN events only.

    Half of a slate tells the teacher apart from popularity (neighbours of the history by item-kNN:
    what like-minded users met), the other half from taste (items drawn by popularity). All items
    are ones that the user has not met, and their order is random, so that a place tells nothing.

    Args:
        store: the token store.
        size: items of a slate, the true one included.
        neighbour_share: share of neighbours among the others.
        seed: of everything random; a slate depends on it and on the moment alone.

    Raises:
        ValueError: the catalog has fewer items than a slate.
    """

    def __init__(self, store: TokenStore, *, size: int, neighbour_share: float, seed: int) -> None:
        is_train_E = np.asarray(store.event_phase_E) == Phase.TRAIN
        self._item_E = np.asarray(store.event_item_E)
        self._seed = seed
        self._size = size
        self._n_neighbours = round(neighbour_share * (size - 1))
        self._count_N = np.bincount(self._item_E[is_train_E], minlength=store.n_items)
        known = int((self._count_N > 0).sum())
        if known < size:
            raise ValueError(
                f"a slate of {size} items cannot be filled: the store has {known} items with "
                f"TRAIN events; choose slate_size <= {known}"
            )
        user_E = np.repeat(np.arange(store.n_users), np.diff(store.user_offsets_U1))
        self._met_UN = sparse.csr_matrix(
            (
                np.ones(int(is_train_E.sum()), dtype=np.float32),
                (user_E[is_train_E], self._item_E[is_train_E]),
            ),
            shape=(store.n_users, store.n_items),
        )
        self._met_UN.data[:] = 1
        self._met_by_item = self._met_UN.tocsc()

    def slate(
        self, user: int, start: int, cut: int, target: int
    ) -> tuple[npt.NDArray[np.int32], int]:
        """Item rows `[S]` and the column of the target.

        Args:
            user: row of the user.
            start: first event row of the history.
            cut: event row behind it.
            target: the true next item.
        """
        generator = np.random.Generator(np.random.Philox(key=[self._seed, cut]))
        history = self._item_E[start:cut]
        taken = np.zeros(len(self._count_N), dtype=bool)
        taken[history] = True
        taken[target] = True
        neighbours = self._neighbours(user, history[-_NEWEST:], taken, generator)
        taken[neighbours] = True
        popular = self._popular(taken, self._size - 1 - len(neighbours), generator)
        others = np.concatenate([neighbours, popular])
        missing = self._size - 1 - len(others)
        if missing > 0:  # who has met nearly everything gets items met before
            rest = np.setdiff1d(np.flatnonzero(self._count_N), [*others, target])
            others = np.concatenate([others, generator.permutation(rest)[:missing]])
        slate = generator.permutation(np.concatenate([[target], others]).astype(np.int32))
        return slate, int(np.flatnonzero(slate == target)[0])

    def _neighbours(
        self,
        user: int,
        history: npt.NDArray[np.int32],
        taken: npt.NDArray[np.bool_],
        generator: np.random.Generator,
    ) -> npt.NDArray[np.int64]:
        overlap_U = np.asarray(self._met_by_item[:, history].sum(axis=1)).ravel()
        overlap_U[user] = 0  # what this user met later must not show
        alike = np.flatnonzero(overlap_U)
        if len(alike) > _MOST_USERS:
            alike = generator.choice(alike, size=_MOST_USERS, replace=False)
        together_N = self._met_UN[alike].T @ overlap_U[alike]
        cosine_N = together_N / np.sqrt(np.maximum(self._count_N, 1))
        cosine_N[taken] = 0
        best = np.argsort(-cosine_N, kind="stable")[: self._n_neighbours]
        near: npt.NDArray[np.int64] = best[cosine_N[best] > 0]
        return near

    def _popular(
        self, taken: npt.NDArray[np.bool_], n: int, generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        weight_N = np.where(taken, 0.0, self._count_N.astype(np.float64) ** 0.75)
        n = min(n, int((weight_N > 0).sum()))
        if not n:
            return np.empty(0, dtype=np.int64)
        share_N = weight_N / weight_N.sum()
        drawn: npt.NDArray[np.int64] = generator.choice(
            len(share_N), size=n, replace=False, p=share_N
        )
        return drawn
