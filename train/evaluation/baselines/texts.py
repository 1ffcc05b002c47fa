"""Baselines of tasks that are answered by a text: each says something that others have said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipeline.splits import Phase
from data_pipeline.store_tables import SENTENCE_KIND
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import Baseline, Questions
from train.evaluation.questions import Asked
from train.evaluation.scores import TargetScores
from train.evaluation.texts import answered_by_text, right_text


class CommonText(Baseline):
    """The answer that was right most often in training, the first of those; whoever asks."""

    name = "common_text"
    kinds = frozenset({"text"})

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Say the same to all."""
        said = most_common_text(self, questions)
        return answered_by_text(self.store, task, questions.test, [said] * len(questions.test))


class ItemText(Baseline):
    """What somebody else wrote about the item in training, with the same verdict if there is one.

    The first such text of the corpus; where nobody wrote about the item, the most common answer.
    """

    name = "item_text"
    kinds = frozenset({"text"})

    def fit(self) -> None:
        """Find the first sentence about each item, and with each verdict."""
        self._sentences: dict[tuple[int, int | None], int] = {}
        first = self.store.card.first_piece.get(SENTENCE_KIND)
        if first is None:
            return
        offsets_E1 = self.store.piece_offsets_P1[first : first + self.store.n_events + 1]
        written_E = (np.diff(offsets_E1) > 0) & (self.store.event_phase_E == Phase.TRAIN)
        # Backwards, so that the first one stays.
        for row in np.flatnonzero(written_E)[::-1].tolist():
            item, action = int(self.store.event_item_E[row]), int(self.store.event_action_E[row])
            self._sentences[item, action] = self._sentences[item, None] = first + row

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Say what was said before."""
        common = most_common_text(self, questions)
        said = [self._said(one) or common for one in questions.test]
        return answered_by_text(self.store, task, questions.test, said)

    def _said(self, one: Asked) -> str | None:
        for item in one.question.candidates:
            action = int(self.store.event_action_E[one.subject])
            piece = self._sentences.get((item, action), self._sentences.get((item, None)))
            if piece is not None:
                return self.store.encoder.decode(self.store.piece(piece)).strip()
        return None


def most_common_text(baseline: Baseline, questions: Questions) -> str:
    """The most common right answer of training; of validation where there was no training."""
    known: Sequence[Asked] = questions.train or questions.validation
    counts = Counter(right_text(baseline.store, one.question) for one in known)
    return counts.most_common(1)[0][0] if counts else ""
