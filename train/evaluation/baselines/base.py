"""What a baseline is: it answers a task's questions from counts, without a language model.

Shapes: B questions, K choices, N items, F features.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.questions import Asked, Place, answered, place_in_catalog
from train.evaluation.scores import Floats, Ints, TargetScores

_BATCH = 256  # questions whose scores of the whole catalog are held at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """The questions of one task: to fit on, to choose settings by, and to answer."""

    train: Sequence[Asked]
    validation: Sequence[Asked]
    test: Sequence[Asked]


class Baseline(abc.ABC):
    """One way to answer without a language model, fitted on training time only.

    A subclass says in `kinds` which kinds of task it can answer. `fit` sees the store once;
    `answer` is called per task and may fit a small head on the task's training questions.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = frozenset({"label", "choice", "title"})
    slow: ClassVar[bool] = False
    """Takes as long as all the others together: another process fits it where there is one."""
    trials: int = 1
    """Settings that may be tried on validation, where each try is costly."""

    def __init__(self, store: TokenStore, seed: int) -> None:
        self.store = store
        self.seed = seed
        self.settings: dict[str, float | None] = {}
        """what `fit` chose on validation, for the record"""

    def fit(self) -> None:  # noqa: B027 - nothing to fit is a fair default
        """Fit what all tasks share on the events of the training phase."""

    @abc.abstractmethod
    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Answer `questions.test`."""


class ItemScorer(Baseline):
    """A baseline that scores items at a moment; every kind of task about items follows from that.

    title   rank the catalog, without the history
    choice  P(candidate) in proportion to its odds of being right
    label   P(class | score), by a logistic regression on the score

    Both regressions are fitted on validation questions, whose events no statistic has seen.
    """

    personal: ClassVar[bool] = True
    """Scores depend on a context. Of two items compared without a user, the first is the context
    and the second is scored; a scorer that knows no context scores both."""

    @abc.abstractmethod
    def item_scores(self, task: Task, asked: Sequence[Asked]) -> Floats:
        """Scores of every item for each question, [B, N]; -inf outside the catalog."""

    def answer(self, task: Task, questions: Questions) -> TargetScores:
        """Answer from the item scores."""
        if task.kind == "title":
            return answered(task, questions.test, places=self._places(task, questions.test))
        fit_on = questions.validation or questions.train
        known, wanted = (self._of_candidates(task, part) for part in (fit_on, questions.test))
        if task.kind == "choice":
            rows = choose(known, fit_on, wanted)
        else:
            known_BF, wanted_BF = (
                np.array([scores.mean() for scores in part]).reshape(-1, 1)
                for part in (known, wanted)
            )
            rows = list(classify(known_BF, fit_on, wanted_BF, most_choices(task, questions)))
        return answered(task, questions.test, probabilities=rows)

    def _places(self, task: Task, asked: Sequence[Asked]) -> list[Place]:
        known_N = np.zeros(self.store.n_items, bool)
        known_N[self.store.statistics.known_items] = True
        places: list[Place] = []
        for start in range(0, len(asked), _BATCH):
            part = asked[start : start + _BATCH]
            scores_BN = self.item_scores(task, part)
            for one, score_N in zip(part, scores_BN, strict=True):
                catalog_N = np.where(known_N, score_N, -np.inf)
                seen = seen_items(self.store, one)
                places.append(place_in_catalog(catalog_N, one.question.label, seen))
        return places

    def _of_candidates(self, task: Task, asked: Sequence[Asked]) -> list[Floats]:
        """The scores of each question's candidates, made finite."""
        rows = []
        for start in range(0, len(asked), _BATCH):
            part = asked[start : start + _BATCH]
            scores_BN = self.item_scores(task, part)
            finite = scores_BN[np.isfinite(scores_BN)]
            lowest = float(finite.min()) if finite.size else 0.0
            for one, score_N in zip(part, scores_BN, strict=True):
                if not one.question.candidates:
                    raise ValueError(
                        f"baseline {self.name!r} scores items, but task {task.name!r} asks about "
                        "none: take it out of the task's `baselines`"
                    )
                items = asked_items(one) if self.personal else one.question.candidates
                of_candidates = score_N[list(items)]
                rows.append(np.where(np.isfinite(of_candidates), of_candidates, lowest))
        return rows


def history_rows(store: TokenStore, task: Task, one: Asked) -> slice:
    """Event rows that a baseline may read: what the task lets the model see, and no later event.

    Where the trunk shows the newest events only, a baseline may read the older ones as well: that
    makes it the stronger opponent.
    """
    moment = one.moment
    if moment.user < 0 or task.history in ("none", "item"):
        return slice(0, 0)
    if task.history == "cold":
        return slice(moment.start, moment.cut)
    return slice(int(store.user_offsets_U1[moment.user]), moment.cut)


def seen_items(store: TokenStore, one: Asked) -> Ints:
    """Items of the user's events before the moment: a full-catalog ranking leaves them out."""
    if one.moment.user < 0:
        return np.empty(0, np.int64)
    start = int(store.user_offsets_U1[one.moment.user])
    return np.unique(store.event_item_E[start : one.moment.cut]).astype(np.int64)


def excluded_items(store: TokenStore, asked: Sequence[Asked]) -> np.ndarray:
    """Items of the catalog that each target's user had met before its moment, [N]."""
    known_N = np.zeros(store.n_items, bool)
    known_N[store.statistics.known_items] = True
    return np.array([int(known_N[seen_items(store, one)].sum()) for one in asked], np.int64)


def asked_items(one: Asked) -> tuple[int, ...]:
    """The candidates; of two items compared without a user, the second (the first is context)."""
    items = one.question.candidates
    return items[1:] if one.moment.user < 0 and len(items) == 2 else items


def context_items(store: TokenStore, task: Task, one: Asked) -> Ints:
    """Items, oldest first, that a sequence baseline starts from."""
    items = one.question.candidates
    if one.moment.user < 0:
        return np.array(items[:1] if len(items) == 2 else [], np.int64)
    return store.event_item_E[history_rows(store, task, one)].astype(np.int64)


def prior_of(asked: Sequence[Asked], n_classes: int) -> Floats:
    """How often each class was right, one virtual count each."""
    labels = [one.question.label for one in asked]
    counts = np.bincount(np.array(labels, np.int64), minlength=n_classes)[:n_classes] + 1.0
    prior: Floats = counts / counts.sum()
    return prior


def most_choices(task: Task, questions: Questions) -> int:
    """Classes of a label task; fewer than its labels where a corpus has fewer, such as actions."""
    asked = (*questions.train, *questions.validation, *questions.test)
    return max((one.question.n_choices for one in asked), default=len(task.labels))


def classify(known_BF: Floats, asked: Sequence[Asked], wanted_BF: Floats, n: int) -> Floats:
    """P(class | features) by logistic regression; the prior where there is nothing to learn."""
    labels = np.array([one.question.label for one in asked], np.int64)
    probabilities_BK = np.tile(prior_of(asked, n), (len(wanted_BF), 1))
    if len(np.unique(labels)) < 2 or not len(wanted_BF):
        return probabilities_BK
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(known_BF, labels)
    return spread(model.predict_proba(wanted_BF), model.classes_, n)


def choose(
    known: Sequence[Floats], asked: Sequence[Asked], wanted: Sequence[Floats]
) -> list[Floats]:
    """P(candidate), in proportion to the odds that a candidate with this score is the right one."""
    right = [
        np.arange(len(scores)) == one.question.label
        for scores, one in zip(known, asked, strict=True)
    ]
    slope = _slope(known or wanted, right)
    return [softmax(slope * scores) for scores in wanted]


def _slope(known: Sequence[Floats], right: Sequence[np.ndarray]) -> float:
    """Slope of a conditional logit with one feature: scores against each other per question."""
    x = np.concatenate([*(scores - scores.mean() for scores in known), np.empty(0)])
    spread_of_x = float(x.std()) if len(x) else 0.0
    if spread_of_x == 0.0:
        return 1.0  # all candidates tie, whatever the slope
    if not right:
        return 1.0 / spread_of_x  # nothing to fit on: the order is right all the same
    y = np.concatenate(right)
    model = LogisticRegression(max_iter=1000).fit((x / spread_of_x)[:, None], y)
    # A higher score is a better candidate by definition; a negative slope would be noise.
    return max(float(model.coef_[0, 0]), 1e-3) / spread_of_x


def softmax(logits_K: Floats) -> Floats:
    """Probabilities in proportion to exp(logit)."""
    weights_K = np.exp(logits_K - logits_K.max())
    probabilities_K: Floats = weights_K / weights_K.sum()
    return probabilities_K


def spread(probabilities: Floats, classes: Ints, n: int) -> Floats:
    """Probabilities of the classes that occurred, as a row over all n classes."""
    full_BK = np.zeros((len(probabilities), n))
    full_BK[:, classes] = probabilities
    return full_BK
