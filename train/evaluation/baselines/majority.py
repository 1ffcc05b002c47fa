"""The answer that was right most often in training, whoever asks."""

from __future__ import annotations

import numpy as np

from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import Baseline, Questions, prior_of
from train.evaluation.questions import answered
from train.evaluation.scores import TargetScores


class Majority(Baseline):
    """The frequency of each answer in training.

    Where choices stand behind letters that change from question to question, the question itself
    says how common each of its choices was in training (`Question.prior`).
    """

    name = "majority"
    kinds = frozenset({"label", "choice"})

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Answer with the frequencies."""
        most = max((one.question.n_choices for one in questions.test), default=0)
        prior_K = prior_of(questions.train or questions.validation, most)
        rows = []
        for one in questions.test:
            own = one.question.prior
            known_K = prior_K[: one.question.n_choices] if own is None else np.asarray(own, float)
            total = known_K.sum()
            rows.append(known_K / total if total > 0 else np.full(len(known_K), 1 / len(known_K)))
        return answered(task, questions.test, probabilities=rows)
