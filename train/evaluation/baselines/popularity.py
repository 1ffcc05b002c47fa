"""Items by how often, or how well, they were rated in training: the same for every user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import ItemScorer, Questions, softmax
from train.evaluation.questions import Asked, answered
from train.evaluation.scores import Floats, TargetScores


class Popularity(ItemScorer):
    """Log of the number of training events of an item.

    Choices that are no items, such as genres, say themselves how common each is in training
    (`Question.prior`).
    """

    name = "popularity"
    personal = False

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Answer by the frequency of items, or of whatever the choices are."""
        priors = [one.question.prior for one in questions.test]
        if task.kind != "choice" or not priors or None in priors:
            return super().answer(task, questions)
        rows = [softmax(np.log(np.asarray(prior) + 1e-6)) for prior in priors]
        return answered(task, questions.test, probabilities=rows)

    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """The same row for every question."""
        score_N = np.log1p(self.store.statistics.item_count_N.astype(np.float64))
        return np.tile(score_N, (len(asked), 1))


class ItemMean(ItemScorer):
    """Mean value of an item's training events, shrunk towards the global mean."""

    name = "item_mean"
    personal = False

    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """The same row for every question."""
        if not self.store.card.values:
            raise ValueError(
                f"baseline {self.name!r} needs values (ratings), which "
                f"{self.store.card.corpus_name} has none of: take it out of task {task.name!r}"
            )
        return np.tile(self.store.statistics.item_mean_N, (len(asked), 1))
