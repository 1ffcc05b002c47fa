"""Biased matrix factorization by alternating least squares, users folded in at their moment.

Source: Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE
Computer 2009, equation 4; weighted regularisation as in Zhou et al., "Large-Scale Parallel
Collaborative Filtering for the Netflix Prize", AAIM 2008.

Item factors and biases come from training events. A user's factors at a moment are solved from the
events before it, so new users are served and nothing later is read.

Shapes: B questions, U users, N items, D factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import ItemScorer, history_rows
from train.evaluation.questions import Asked
from train.evaluation.scores import Floats

_FACTORS = 12
_ROUNDS = 8
_REGULARISATIONS = (0.1, 0.2, 0.4)
_BIAS_SHRINKAGE = 5.0
_SELECTION_EVENTS = 2000


class MatrixFactorization(ItemScorer):
    """Predicted value of every item; the regularisation is chosen on validation events."""

    name = "matrix_factorization"

    def __init__(self, store: TokenStore, seed: int) -> None:
        super().__init__(store, seed)
        self._factors_ND = np.zeros((store.n_items, _FACTORS))
        self._regularisation = _REGULARISATIONS[0]
        self._base_N = np.zeros(store.n_items)

    def fit(self) -> None:
        """Fit item factors per regularisation; keep those with the least validation error."""
        store = self.store
        if not store.card.values:
            raise ValueError(
                f"baseline {self.name!r} needs values (ratings), which {store.card.corpus_name} "
                "has none of: take it out of the tasks' `baselines`"
            )
        self._base_N = store.statistics.item_mean_N
        values_UN = self._training_values()
        best = np.inf
        for regularisation in _REGULARISATIONS:
            factors_ND = self._alternate(values_UN, regularisation)
            error = self._validation_error(factors_ND, regularisation)
            if error < best or not self.settings:
                best, self._factors_ND = error, factors_ND
                self._regularisation = regularisation
                self.settings = {"regularisation": regularisation, "validation_rmse": error}

    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """Predicted values, from the events before each question's moment."""
        rows = [history_rows(self.store, task, one) for one in asked]
        return self._predict(rows, self._factors_ND, self._regularisation)

    def _training_values(self) -> sparse.csr_matrix:
        """Values above the item's mean, of training events, [U, N]."""
        store = self.store
        kept_E = (store.event_phase_E == Phase.TRAIN) & ~np.isnan(store.event_value_E)
        user_E = np.repeat(np.arange(store.n_users), np.diff(store.user_offsets_U1))
        item_R = store.event_item_E[kept_E]
        above_R = store.event_value_E[kept_E] - self._base_N[item_R]
        return _matrix(above_R, user_E[kept_E], item_R, (store.n_users, store.n_items))

    def _alternate(self, values_UN: sparse.csr_matrix, regularisation: float) -> Floats:
        above_UN = _without_user_mean(values_UN)[0]
        rng = np.random.Generator(np.random.Philox(key=[self.seed, _FACTORS]))
        factors_ND = 0.1 * rng.standard_normal((values_UN.shape[1], _FACTORS))
        for _ in range(_ROUNDS):
            factors_UD = _solve(above_UN, factors_ND, regularisation)
            factors_ND = _solve(above_UN.T.tocsr(), factors_UD, regularisation)
        return factors_ND

    def _predict(self, rows: Sequence[slice], factors_ND: Floats, regularisation: float) -> Floats:
        store = self.store
        events = np.concatenate([np.arange(r.start, r.stop) for r in rows] + [np.empty(0, int)])
        row_of = np.repeat(np.arange(len(rows)), [r.stop - r.start for r in rows])
        rated = ~np.isnan(store.event_value_E[events])
        events, row_of = events[rated], row_of[rated]
        item_R = store.event_item_E[events]
        above_R = store.event_value_E[events] - self._base_N[item_R]
        values_BN = _matrix(above_R, row_of, item_R, (len(rows), store.n_items))
        above_BN, mean_B = _without_user_mean(values_BN)
        factors_BD = _solve(above_BN, factors_ND, regularisation)
        predicted_BN: Floats = self._base_N + mean_B[:, None] + factors_BD @ factors_ND.T
        return predicted_BN

    def _validation_error(self, factors_ND: Floats, regularisation: float) -> float:
        """Root mean squared error on validation events, each user folded in before them."""
        store = self.store
        wanted_E = (store.event_phase_E == Phase.VALIDATION) & ~np.isnan(store.event_value_E)
        events = np.flatnonzero(wanted_E)
        step = max(1, len(events) // _SELECTION_EVENTS)
        events = events[::step]
        errors = []
        for part in np.array_split(events, max(1, len(events) // 256)):
            # Events of one millisecond know nothing of each other: the history ends before them.
            users = np.searchsorted(store.user_offsets_U1, part, side="right") - 1
            starts = store.user_offsets_U1[users]
            cuts = [
                _first_at(store, int(start), int(e)) for start, e in zip(starts, part, strict=True)
            ]
            rows = [slice(int(start), cut) for start, cut in zip(starts, cuts, strict=True)]
            predicted_BN = self._predict(rows, factors_ND, regularisation)
            truth = store.event_value_E[part]
            errors.append(predicted_BN[np.arange(len(part)), store.event_item_E[part]] - truth)
        joined = np.concatenate([*errors, np.empty(0)])
        return float(np.sqrt(np.mean(np.square(joined)))) if len(joined) else float("inf")


def _first_at(store: TokenStore, start: int, event: int) -> int:
    times = store.event_time_E[start : event + 1]
    return start + int(np.searchsorted(times, times[-1], side="left"))


def _matrix(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """A sparse matrix; of repeated entries the last stays, and a stored zero counts as known."""
    key = rows.astype(np.int64) * shape[1] + columns
    _, last = np.unique(key[::-1], return_index=True)
    kept = len(key) - 1 - last
    data = values[kept].astype(np.float64)
    return sparse.csr_matrix((data, (rows[kept], columns[kept])), shape=shape)


def _without_user_mean(values_BN: sparse.csr_matrix) -> tuple[sparse.csr_matrix, Floats]:
    counts_B = np.diff(values_BN.indptr)
    sums_B = np.asarray(values_BN.sum(axis=1)).ravel()
    mean_B = sums_B / (counts_B + _BIAS_SHRINKAGE)
    centred_BN = values_BN.copy()
    centred_BN.data = centred_BN.data - np.repeat(mean_B, counts_B)
    return centred_BN, mean_B


def _solve(values_BN: sparse.csr_matrix, factors_ND: Floats, regularisation: float) -> Floats:
    """Ridge regression of every row on the factors of its known columns, [B, D].

    All Gram matrices come from one sparse product with the factors' outer products.
    """
    D = factors_ND.shape[1]
    known_BN = values_BN.copy()
    known_BN.data = np.ones_like(known_BN.data)
    outer_NX = (factors_ND[:, :, None] * factors_ND[:, None, :]).reshape(-1, D * D)
    gram_BDD = (known_BN @ outer_NX).reshape(-1, D, D)
    counts_B = np.diff(values_BN.indptr)
    gram_BDD += (regularisation * np.maximum(counts_B, 1))[:, None, None] * np.eye(D)
    target_BD = values_BN @ factors_ND
    solved_BD: Floats = np.linalg.solve(gram_BDD, target_BD[:, :, None])[:, :, 0]
    return solved_BD
