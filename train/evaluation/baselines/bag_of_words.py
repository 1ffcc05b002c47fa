"""What the words of a question say by themselves, without their order and without any history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import Baseline, Questions, most_choices, prior_of, spread
from train.evaluation.questions import Asked, answered
from train.evaluation.scores import TargetScores


class BagOfWords(Baseline):
    """Logistic regression on the words of a question, each weighted by how rare it is (tf-idf).

    The opponent where an answer lies in a text, such as a review, of which counts of users and
    items see nothing. It learns from training questions, or from validation ones where a question
    is never trained on: then from about as many rows as a long prompt can show.
    """

    name = "bag_of_words"
    kinds = frozenset({"label"})

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Answer from the words; with how common the answers are, where there is but one."""
        known, wanted = questions.train or questions.validation, questions.test
        n = most_choices(task, questions)
        labels = np.array([one.question.label for one in known], np.int64)
        probabilities_BK = np.tile(prior_of(known, n), (len(wanted), 1))
        if len(np.unique(labels)) > 1 and wanted:
            model = make_pipeline(
                TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000)
            )
            model.fit(self._texts(known), labels)
            probabilities_BK = spread(model.predict_proba(self._texts(wanted)), model.classes_, n)
        return answered(task, wanted, probabilities=list(probabilities_BK))

    def _texts(self, asked: Sequence[Asked]) -> list[str]:
        store = self.store
        return [store.encoder.decode(store.gather(one.question.pieces)[0]) for one in asked]
