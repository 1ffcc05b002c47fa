"""Counts and means of the training events: frozen, so that nothing later leaks into a prompt.

Shapes: N items, U users, E events, P pairs of items, A taggings, G distinct tags.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# A mean over few ratings is pulled towards the global mean by this many virtual ones.
_SHRINKAGE: Final = 5.0

# Items are alike when those who like one like the other this much more often than by chance;
# unlike when less often, given that chance alone would make enough pairs to tell.
_ALIKE: Final = 1.6
_UNLIKE: Final = 0.9
_MIN_TOGETHER: Final = 8
_MAX_PAIRS: Final = 200_000
_MAX_LIKED_ITEMS: Final = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What is known of items and users at the end of training time."""

    item_count_N: NDArray[np.int64]
    item_mean_N: NDArray[np.float64]
    """Mean value of the item's events, shrunk towards the global mean."""
    item_likes_N: NDArray[np.int64]
    user_count_U: NDArray[np.int64]
    user_mean_U: NDArray[np.float64]
    value_counts: NDArray[np.int64]
    """Training events with each of the corpus's values, in their order."""
    tag_count: NDArray[np.int64]
    """How often each tag was given by the end of training time; empty without tags; shape [G]."""
    global_mean: float
    pairs_P2: NDArray[np.int32]
    """Pairs of items whose likers overlap more, or less, than by chance."""
    pair_alike_P: NDArray[np.bool_]

    @property
    def known_items(self) -> NDArray[np.int64]:
        """Rows of the items with at least one training event: what may be recommended."""
        return np.flatnonzero(self.item_count_N)

    def save(self, folder: Path) -> None:
        """Write every array as a .npy file of its own."""
        for entry in fields(self):
            np.save(folder / f"{entry.name}.npy", getattr(self, entry.name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Statistics":
        """Read what `save` wrote."""
        arrays = {
            entry.name: np.load(folder / f"{entry.name}.npy", allow_pickle=False)
            for entry in fields(cls)
        }
        arrays["global_mean"] = float(arrays["global_mean"])
        return cls(**arrays)


def compute_statistics(
    *,
    user_E: NDArray[np.int32],
    item_E: NDArray[np.int32],
    value_E: NDArray[np.float32],
    tag_A: NDArray[np.int32],
    n_users: int,
    n_items: int,
    n_tags: int,
    values: tuple[float, ...],
    like_at_least: float | None,
) -> Statistics:
    """Count training events and tags. `value_E` is NaN where an event has no value."""
    rated = np.isfinite(value_E)
    user_R, item_R = user_E[rated], item_E[rated]
    value_R = value_E[rated].astype(np.float64)
    global_mean = float(value_R.mean()) if len(value_R) else float("nan")
    liked = value_R >= like_at_least if like_at_least is not None else np.zeros(len(value_R), bool)
    pairs, alike = _similar_pairs(user_R[liked], item_R[liked], n_users, n_items)
    return Statistics(
        item_count_N=np.bincount(item_E, minlength=n_items),
        item_mean_N=_shrunk_mean(item_R, value_R, n_items, global_mean),
        item_likes_N=np.bincount(item_R[liked], minlength=n_items),
        user_count_U=np.bincount(user_E, minlength=n_users),
        user_mean_U=_shrunk_mean(user_R, value_R, n_users, global_mean),
        value_counts=np.array([(value_R == value).sum() for value in values], np.int64),
        tag_count=np.bincount(tag_A, minlength=n_tags),
        global_mean=global_mean,
        pairs_P2=pairs,
        pair_alike_P=alike,
    )


def _shrunk_mean(
    rows: NDArray[np.int32], values: NDArray[np.float64], n: int, mean: float
) -> NDArray[np.float64]:
    sums = np.bincount(rows, weights=values, minlength=n)
    counts = np.bincount(rows, minlength=n)
    return (sums + _SHRINKAGE * mean) / (counts + _SHRINKAGE)


def _spread(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)] if n else rows[:0]


def _similar_pairs(
    user: NDArray[np.int32], item: NDArray[np.int32], n_users: int, n_items: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Lift of co-likes: P(both liked) / (P(one) P(other)), over users."""
    counts = np.bincount(item, minlength=n_items)
    common = np.argsort(-counts, kind="stable")[:_MAX_LIKED_ITEMS]
    keep = np.isin(item, common[counts[common] > 0])
    likes = sparse.csr_matrix(
        (np.ones(keep.sum(), np.int64), (user[keep], item[keep])), shape=(n_users, n_items)
    )
    likes.data[:] = 1
    likers = max(1, int((likes.getnnz(axis=1) > 0).sum()))
    together = sparse.triu(likes.T @ likes, k=1).tocoo()
    expected = counts[together.row] * counts[together.col] / likers
    lift = together.data / np.maximum(expected, 1e-9)
    alike = (lift >= _ALIKE) & (together.data >= _MIN_TOGETHER)
    unlike = (lift <= _UNLIKE) & (expected >= _MIN_TOGETHER)
    # As many of either kind, evenly spread, so that neither answer wins by being common.
    n = min(int(alike.sum()), int(unlike.sum()), _MAX_PAIRS // 2)
    chosen = np.sort(np.concatenate([_spread(np.flatnonzero(kind), n) for kind in (alike, unlike)]))
    pairs = np.stack([together.row[chosen], together.col[chosen]], axis=1).astype(np.int32)
    return pairs, alike[chosen]
