"""Item-kNN: what stands near the recent history in other users' sequences.

A floor that many published sequence models do not pass. Co-occurrence within a window, weighted by
1/distance, symmetric, normalised by popularity; recent history counts more. Window, power,
shrinkage and decay are chosen on validation events by nDCG@10.

Shapes: B questions, N items, E training events in user order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import ItemScorer, context_items
from train.evaluation.questions import Asked
from train.evaluation.scores import Floats, Ints
from train.sequences import NextItemTargets, SequenceData, rank_targets

RECENT = 50  # events of the history that count
_WINDOWS = (5, 20, 100)
_POWERS = (0.25, 0.5)
_SHRINKAGES = (1.0, 20.0)
_DECAYS = (0.8, 0.95)
_SELECTION_TARGETS = 300


class ItemKnn(ItemScorer):
    """Windowed item-to-item co-occurrence, settings chosen on validation."""

    name = "item_knn"

    def __init__(self, store: TokenStore, seed: int) -> None:
        super().__init__(store, seed)
        self._near_NN = sparse.csr_matrix((store.n_items, store.n_items))
        self._decay = _DECAYS[0]

    def fit(self) -> None:
        """Count co-occurrences in training and choose the settings on validation."""
        data = SequenceData.from_store(self.store)
        targets = data.validation.sample(_SELECTION_TARGETS, self.seed)
        popularity_N = self.store.statistics.item_count_N
        best = -1.0
        for window in _WINDOWS:
            counts_NN = co_occurrences(data, window)
            for power, shrinkage in itertools.product(_POWERS, _SHRINKAGES):
                near_NN = normalised(counts_NN, popularity_N, power, shrinkage)
                for decay in _DECAYS:
                    ndcg = _validated(near_NN, decay, data, targets)
                    if ndcg > best:
                        best, self._near_NN, self._decay = ndcg, near_NN, decay
                        self.settings = {
                            "window": window,
                            "power": power,
                            "shrinkage": shrinkage,
                            "decay": decay,
                            "validation_ndcg@10": ndcg,
                        }

    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """Nearness of every item to the recent history."""
        contexts = [context_items(self.store, task, one) for one in asked]
        return _scores(self._near_NN, contexts, self._decay)


def co_occurrences(data: SequenceData, window: int) -> sparse.csr_matrix:
    """Sum of 1/distance over the pairs of training events of one user, at most `window` apart."""
    item_E = data.train_item_E.astype(np.int64)
    user_E = np.repeat(np.arange(len(data.train_offsets_U1) - 1), np.diff(data.train_offsets_U1))
    total_NN = sparse.csr_matrix((data.n_items, data.n_items), dtype=np.float64)
    for distance in range(1, min(window, max(len(item_E) - 1, 0)) + 1):
        same_user = user_E[distance:] == user_E[:-distance]
        if not same_user.any():
            break
        one, other = item_E[:-distance][same_user], item_E[distance:][same_user]
        weight = np.full(len(one), 1.0 / distance)
        total_NN += sparse.csr_matrix((weight, (one, other)), shape=total_NN.shape)
    return (total_NN + total_NN.T).tocsr()


def normalised(
    counts_NN: sparse.csr_matrix, popularity_N: Ints, power: float, shrinkage: float
) -> sparse.csr_matrix:
    """D^-power C D^-power with D = popularity + shrinkage: rare pairs count less."""
    scale_NN = sparse.diags((popularity_N + shrinkage) ** -power)
    return (scale_NN @ counts_NN @ scale_NN).tocsr()


def _validated(
    near_NN: sparse.csr_matrix, decay: float, data: SequenceData, targets: NextItemTargets
) -> float:
    """NDCG@10 of the full catalog on validation targets; 0 where there are none."""

    def score(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        return _scores(near_NN, histories, decay).astype(np.float32)

    return float(rank_targets(score, data, targets).ndcg(10).mean()) if len(targets) else 0.0


def _scores(near_NN: sparse.csr_matrix, histories: Sequence[Ints], decay: float) -> Floats:
    recent = [np.asarray(history, np.int64)[-RECENT:] for history in histories]
    weights = [decay ** np.arange(len(row) - 1.0, -1.0, -1.0) for row in recent]
    row_of = np.repeat(np.arange(len(recent)), [len(row) for row in recent])
    shape = (len(recent), near_NN.shape[0])
    columns = np.concatenate([*recent, np.empty(0, np.int64)])
    values = np.concatenate([*weights, np.empty(0)])
    history_BN = sparse.csr_matrix((values, (row_of, columns)), shape=shape)
    scores_BN: Floats = (history_BN @ near_NN).toarray()
    return scores_BN
