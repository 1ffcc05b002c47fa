"""Tabular models on counts: logistic regression, and gradient-boosted trees.

Shapes: B questions, K choices, F features, R rows (one per question, or per candidate).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import (
    Baseline,
    Questions,
    most_choices,
    prior_of,
    softmax,
    spread,
)
from train.evaluation.baselines.features import Features
from train.evaluation.questions import Asked, answered
from train.evaluation.scores import Floats, Ints, TargetScores

_ENOUGH_TO_STOP_BY = 20


class Tabular(Baseline):
    """A classifier on the features of a question.

    label   P(class | features of user and item)
    choice  candidates against each other: softmax of the log-odds that a candidate is right
    """

    kinds = frozenset({"label", "choice"})

    def __init__(self, store: TokenStore, seed: int) -> None:
        super().__init__(store, seed)
        self._features = Features(store)

    @abc.abstractmethod
    def _classifier(self, labels: Ints) -> Any:
        """An unfitted scikit-learn classifier that takes NaN, for these labels."""

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Fit on the training questions and answer."""
        train = questions.train or questions.validation
        known = self._features.rows(task, train)
        wanted = self._features.rows(task, questions.test)
        if task.kind == "choice":
            rows: Sequence[Floats] = self._choose(known, train, wanted)
        else:
            rows = list(self._classify(known, train, wanted, most_choices(task, questions)))
        return answered(task, questions.test, probabilities=rows)

    def _classify(
        self, known: Sequence[Floats], train: Sequence[Asked], wanted: Sequence[Floats], n: int
    ) -> Floats:
        labels = np.array([one.question.label for one in train], np.int64)
        if len(np.unique(labels)) < 2:
            return np.tile(prior_of(train, n), (len(wanted), 1))
        known_BF, wanted_BF = (
            np.stack([row.mean(axis=0) for row in part]) if len(part) else np.zeros((0, 0))
            for part in (known, wanted)
        )
        if not len(wanted):
            return np.zeros((0, n))
        telling_F = np.isfinite(known_BF).any(axis=0)
        model = self._classifier(labels).fit(known_BF[:, telling_F], labels)
        return spread(model.predict_proba(wanted_BF[:, telling_F]), model.classes_, n)

    def _choose(
        self, known: Sequence[Floats], train: Sequence[Asked], wanted: Sequence[Floats]
    ) -> list[Floats]:
        right = [
            np.arange(len(row)) == one.question.label for row, one in zip(known, train, strict=True)
        ]
        if not right or not wanted:
            return [np.full(len(row), 1.0 / len(row)) for row in wanted]
        known_RF, wanted_RF = (
            np.concatenate([_against_each_other(row) for row in part]) for part in (known, wanted)
        )
        telling_F = np.isfinite(known_RF).any(axis=0)
        right_R = np.concatenate(right).astype(np.int64)
        model = self._classifier(right_R).fit(known_RF[:, telling_F], right_R)
        sizes = np.cumsum([len(row) for row in wanted])[:-1]
        p_R = np.clip(model.predict_proba(wanted_RF[:, telling_F])[:, 1], 1e-6, 1 - 1e-6)
        return [softmax(np.log(p / (1 - p))) for p in np.split(p_R, sizes)]


class Logistic(Tabular):
    """Logistic regression on standardised features."""

    name = "logistic"

    def _classifier(self, labels: Ints) -> Any:
        return make_pipeline(
            SimpleImputer(strategy="mean", keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(C=0.3, max_iter=500),
        )


class GradientBoosting(Tabular):
    """Histogram gradient-boosted trees, as LightGBM's (Ke et al. 2017)."""

    name = "gradient_boosting"

    def _classifier(self, labels: Ints) -> Any:
        # A tenth of the rows says when to stop, where each class has enough to be in it.
        plenty = bool(np.unique(labels, return_counts=True)[1].min() >= _ENOUGH_TO_STOP_BY)
        return HistGradientBoostingClassifier(
            learning_rate=0.06,
            max_iter=120 if plenty else 40,
            max_leaf_nodes=12,
            min_samples_leaf=30,
            l2_regularization=1.0,
            early_stopping=plenty,
            random_state=self.seed,
        )


def _against_each_other(row_KF: Floats) -> Floats:
    """A candidate's features, and by how much they exceed the mean of its rivals, [K, 2F]."""
    known_KF = np.where(np.isnan(row_KF), 0.0, row_KF)
    return np.concatenate([row_KF, row_KF - known_KF.mean(axis=0)], axis=1)
