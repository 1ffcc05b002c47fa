"""SASRec of our own, trained on the sequences of the training phase with full cross-entropy.

Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; full-catalog
cross-entropy instead of sampled negatives, which makes it a much stronger opponent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import ItemScorer, context_items
from train.evaluation.questions import Asked
from train.evaluation.scores import Floats
from train.students import FittedStudent, SequenceData, StudentConfig, fit_student

log = logging.getLogger(__name__)


class SASRecBaseline(ItemScorer):
    """A sequence model's logit of every item as the next one."""

    name = "sasrec"
    slow = True

    def __init__(self, store: TokenStore, seed: int) -> None:
        super().__init__(store, seed)
        self._student: FittedStudent | None = None

    def fit(self) -> None:
        """Train with early stopping on validation."""
        data = SequenceData.from_store(self.store)
        self._student = fit_student(data, StudentConfig(seed=self.seed))
        log.info("baseline sasrec: fitted in %.0f s", self._student.seconds)

    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """Logits, from the events before each question's moment."""
        assert self._student is not None, "fit() comes before answer()"
        histories = [context_items(self.store, task, one) for one in asked]
        return self._student.item_scores(histories).astype("float64")
