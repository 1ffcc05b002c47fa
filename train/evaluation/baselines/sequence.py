"""Sequence models on item numbers alone, trained on the sequences of the training phase.

`sasrec` with cross-entropy over the full catalog and `sasrec_bce` with one sampled negative, as in
the paper, are the two floors: how much of a published gain is the loss shows between them.

Sources: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; Hidasi et al.,
"Session-based Recommendations with Recurrent Neural Networks", ICLR 2016.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import ItemScorer, context_items
from train.evaluation.questions import Asked
from train.evaluation.scores import Floats
from train.sequences import SequenceData
from train.student_tuning import TRIAL_EPOCHS, tune_student
from train.students import FittedStudent, StudentConfig

log = logging.getLogger(__name__)

THOROUGH: Mapping[str, Any] = {"epochs": 60, "patience": 8}
"""Schedule of a fit that counts. Validation NDCG@10 of small data is noisy: with the quick default,
a fit may end on the first plateau that it meets."""


class SequenceBaseline(ItemScorer):
    """A student's logit of every item as the next one.

    A subclass names the student and the settings to try on validation, the safest first.
    """

    slow = True
    candidates: ClassVar[tuple[Mapping[str, Any], ...]]
    """Settings of `StudentConfig`."""

    def __init__(self, store: TokenStore, seed: int) -> None:
        super().__init__(store, seed)
        self._student: FittedStudent | None = None

    def fit(self) -> None:
        """Choose the settings on validation and fit, with early stopping on validation."""
        data = SequenceData.from_store(self.store)
        tried = self.candidates[: self.trials]
        schedule = THOROUGH if self.trials > 1 else {}
        if not len(data.validation):
            # Nobody comes back, so there is no next item to choose by, and hardly one to learn.
            schedule = {"epochs": TRIAL_EPOCHS}
        configs = [StudentConfig(seed=self.seed, **schedule, **settings) for settings in tried]
        self._student, trials = tune_student(data, configs)
        chosen = self._student.config
        best = [
            e.validation_ndcg10 for e in self._student.epochs if e.validation_ndcg10 is not None
        ]
        self.settings = {
            "hidden_size": chosen.hidden_size,
            "learning_rate": chosen.learning_rate,
            "dropout": chosen.dropout,
            "batch_size": chosen.batch_size,
            "epochs": self._student.best_epoch,
            "settings_tried": len(trials) or 1,
            "validation_ndcg@10": max(best, default=None),
        }
        log.info("baseline %s: fitted in %.0f s", self.name, self._student.seconds)

    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """Logits, from the events before each question's moment."""
        assert self._student is not None, "fit() comes before answer()"
        histories = [context_items(self.store, task, one) for one in asked]
        return self._student.item_scores(histories).astype("float64")


class SASRecBaseline(SequenceBaseline):
    """Self-attention, cross-entropy over the full catalog."""

    name = "sasrec"
    candidates = (
        {"dropout": 0.2, "learning_rate": 3e-3, "batch_size": 128},
        {"dropout": 0.3, "learning_rate": 1e-3, "batch_size": 32},
        {"dropout": 0.5, "learning_rate": 1e-3, "batch_size": 32, "hidden_size": 128},
    )


class SASRecSampledBaseline(SequenceBaseline):
    """Self-attention, binary cross-entropy against one sampled negative per event."""

    name = "sasrec_bce"
    candidates = tuple(
        {**settings, "loss": "binary_cross_entropy"} for settings in SASRecBaseline.candidates
    )


class GRU4RecBaseline(SequenceBaseline):
    """A recurrent network, cross-entropy over the full catalog."""

    name = "gru4rec"
    candidates = tuple(
        {**settings, "architecture": "gru4rec", "n_layers": 1}
        for settings in (
            {"dropout": 0.3, "learning_rate": 2e-3, "batch_size": 32},
            {"dropout": 0.4, "learning_rate": 3e-3, "batch_size": 128},
            {"dropout": 0.5, "learning_rate": 1e-3, "batch_size": 32, "hidden_size": 128},
        )
    )
