"""Words that two texts of a question share: what a search engine without learning would say.

Shapes: B questions, K candidates, F features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import Baseline, Questions, choose, classify
from train.evaluation.questions import Asked, answered
from train.evaluation.scores import Floats, TargetScores

_SATURATION = 1.2
_LENGTH = 0.75
_MOST_RECORDS = 50_000
"""Records that words are counted in, evenly spread: more would change no weight by much."""


class WordOverlap(Baseline):
    """Okapi BM25 between a query and item records as prompts show them.

    Where the options are no items but texts, such as queries, each of them is the query and what
    stands before the options is the record.

    The parameters are the usual k1 = 1.2 and b = 0.75 (Robertson and Zaragoza 2009); a
    regression on validation questions turns scores into probabilities.
    """

    name = "word_overlap"
    kinds = frozenset({"label", "choice"})

    def fit(self) -> None:
        """Count in how many records each word stands."""
        self._words: dict[int, Counter[str]] = {}
        step = 1 + self.store.n_items // _MOST_RECORDS
        records = [self._record(item) for item in range(0, self.store.n_items, step)]
        self._n = len(records)
        self._holding = Counter(word for words in records for word in words)
        self._mean_length = sum(words.total() for words in records) / max(1, self._n)

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Answer from the overlap of the query with each candidate."""
        fit_on = questions.validation or questions.train
        known, wanted = ([self._of(task, one) for one in p] for p in (fit_on, questions.test))
        if task.kind == "choice":
            return answered(task, questions.test, probabilities=choose(known, fit_on, wanted))
        known_BF, wanted_BF = (np.array(part).reshape(-1, 1) for part in (known, wanted))
        rows = classify(known_BF, fit_on, wanted_BF, len(task.labels))
        return answered(task, questions.test, probabilities=list(rows))

    def _of(self, task: Task, one: Asked) -> Floats:
        """The score of every candidate, [K]."""
        question, queries = one.question, self.store.queries
        if question.query is not None and question.candidates and queries is not None:
            query = set(_words_of(queries.texts[question.query]))
            return np.array([self._score(query, self._record(i)) for i in question.candidates])
        if question.candidates or task.kind != "choice":
            raise ValueError(
                f"baseline {self.name!r} compares texts, but task {task.name!r} asks about items "
                "without a query: take it out of the task's `baselines`"
            )
        options = question.pieces[-2 * question.n_choices :]
        record = Counter(self._words_of_pieces(question.pieces[: -len(options)]))
        return np.array(
            [self._score(set(self._words_of_pieces([piece])), record) for piece in options[1::2]]
        )

    def _score(self, query: set[str], words: Counter[str]) -> float:
        norm = 1 - _LENGTH + _LENGTH * words.total() / max(1.0, self._mean_length)
        score = 0.0
        for word in query & words.keys():
            holding, count = self._holding[word], words[word]
            weight = np.log1p((self._n - holding + 0.5) / (holding + 0.5))
            score += weight * count * (_SATURATION + 1) / (count + _SATURATION * norm)
        return float(score)

    def _record(self, item: int) -> Counter[str]:
        if item not in self._words:
            style = self.store.card.styles[0]
            line = self.store.piece_of(f"line/{style}", item)
            self._words[item] = Counter(self._words_of_pieces([line]))
        return self._words[item]

    def _words_of_pieces(self, pieces: Sequence[int]) -> list[str]:
        return _words_of(self.store.encoder.decode(self.store.gather(pieces)[0]))


def _words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
