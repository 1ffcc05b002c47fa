"""Counts and means that a tabular model may know at a moment: nothing later than the moment.

User features come from the events before the moment. Item features come from training events, and
for a moment inside training time only from those before it: otherwise a training question would
find its own answer among the item's statistics.

Shapes: N items, F features, K choices, P words of profiles, R training events with a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation.baselines.base import asked_items, history_rows
from train.evaluation.questions import Asked
from train.evaluation.scores import Floats, Ints

_SHRINKAGE = 5.0
_CATEGORY_SHRINKAGE = 2.0
_RECENT = 10
_PROFILE_WORDS = 32
_HOUR = 3_600_000


class ItemClock:
    """Count, mean value and share of likes of an item's training events before a time."""

    def __init__(self, store: TokenStore) -> None:
        rows = np.flatnonzero(store.event_phase_E == Phase.TRAIN)
        item_R, time_R = store.event_item_E[rows], store.event_time_E[rows]
        order = np.lexsort((time_R, item_R))
        value_R = store.event_value_E[rows][order].astype(np.float64)
        known_R = ~np.isnan(value_R)
        like = store.card.like_at_least
        liked_R = value_R >= like if like is not None else np.zeros(len(value_R), bool)
        self._time_R = time_R[order]
        self._offsets_N1 = np.searchsorted(item_R[order], np.arange(store.n_items + 1))
        self._known, self._sums, self._likes = (
            np.concatenate([[0.0], np.cumsum(part)])
            for part in (known_R, np.where(known_R, value_R, 0.0), liked_R)
        )
        mean = store.statistics.global_mean
        self.global_mean = 0.0 if np.isnan(mean) else float(mean)
        self._like_share = float(self._likes[-1] / max(1.0, self._known[-1]))

    def at(self, item: int, time: int | None) -> tuple[float, float, float]:
        """(events, shrunk mean value, shrunk share of likes) before `time`; None = all training."""
        start, stop = int(self._offsets_N1[item]), int(self._offsets_N1[item + 1])
        if time is not None:
            stop = start + int(np.searchsorted(self._time_R[start:stop], time, side="left"))
        known = self._known[stop] - self._known[start]
        total = self._sums[stop] - self._sums[start]
        likes = self._likes[stop] - self._likes[start]
        return (
            float(stop - start),
            float((total + _SHRINKAGE * self.global_mean) / (known + _SHRINKAGE)),
            float((likes + _SHRINKAGE * self._like_share) / (known + _SHRINKAGE)),
        )


@dataclass(frozen=True, slots=True)
class _User:
    """A user's history at a moment, summed up once for all candidates of the question."""

    own_F: list[float]
    mean: float
    value_R: Floats
    items_R: Ints


class Features:
    """Feature rows of questions, a row per candidate."""

    def __init__(self, store: TokenStore) -> None:
        self.store = store
        self.clock = ItemClock(store)
        self._fields = [_Membership(store, name) for name in store.card.category_fields]
        numbers = (*store.card.number_fields, *store.card.year_fields)
        self._numbers = [store.number(name) for name in numbers]
        self._words = _profile_words(store)

    def of(self, task: Task, one: Asked) -> Floats:
        """Features of every candidate of one question, [K, F]; NaN where a field is unknown."""
        items = asked_items(one)
        if not items:
            raise ValueError(
                f"tabular baselines need items, but task {task.name!r} asks about none: take them "
                "out of the task's `baselines`"
            )
        user = self._user(task, one)
        time = one.moment.time if one.moment.user >= 0 else None
        return np.array([user.own_F + self._item(user, item, time) for item in items])

    def rows(self, task: Task, asked: Sequence[Asked]) -> list[Floats]:
        """`of` for every question."""
        return [self.of(task, one) for one in asked]

    def _user(self, task: Task, one: Asked) -> _User:
        store, rows = self.store, history_rows(self.store, task, one)
        value_R = store.event_value_E[rows].astype(np.float64)
        known_R = value_R[~np.isnan(value_R)]
        total = known_R.sum() + _SHRINKAGE * self.clock.global_mean
        mean = float(total / (len(known_R) + _SHRINKAGE))
        like = store.card.like_at_least
        likes = float((known_R >= like).sum()) if like is not None else 0.0
        last = store.event_time_E[rows.stop - 1] if rows.stop > rows.start else None
        hours = np.nan if last is None else max(0.0, (one.moment.time - int(last)) / _HOUR)
        own_F = [
            float(np.log1p(len(value_R))),
            mean,
            likes / max(1, len(known_R)),
            float(known_R.std()) if len(known_R) > 1 else 0.0,
            float(known_R[-_RECENT:].mean()) if len(known_R) else mean,
            float(np.log1p(hours)),
            *self._words[one.moment.user if one.moment.user >= 0 else -1],
        ]
        above_R = np.where(np.isnan(value_R), 0.0, value_R - mean)
        return _User(own_F, mean, above_R, store.event_item_E[rows])

    def _item(self, user: _User, item: int, time: int | None) -> list[float]:
        count, mean, likes = self.clock.at(item, time)
        features = [
            float(np.log1p(count)),
            mean,
            likes,
            user.mean + mean - self.clock.global_mean,
        ]
        for field in self._fields:
            features += field.affinity(item, user.items_R, user.value_R)
        for number_N in self._numbers:
            of_history = number_N[user.items_R]
            of_history = of_history[~np.isnan(of_history)]
            usual = float(of_history.mean()) if len(of_history) else np.nan
            features += [float(number_N[item]), abs(float(number_N[item]) - usual)]
        return features


class _Membership:
    """A category field as a table: item i is of category c."""

    def __init__(self, store: TokenStore, name: str) -> None:
        field = store.categories(name)
        item_of_code = np.repeat(np.arange(store.n_items), np.diff(field.offsets_N1))
        self._member_NC = np.zeros((store.n_items, len(field.names)), np.float32)
        self._member_NC[item_of_code, field.codes] = 1.0

    def affinity(self, item: int, items_R: Ints, above_R: Floats) -> list[float]:
        """How often, and with what values above the mean, the history has the item's categories."""
        own = self._member_NC[item] > 0
        if not len(items_R) or not own.any():
            return [0.0] * 5
        shared_RC = self._member_NC[items_R][:, own]
        liking_C = (above_R @ shared_RC) / (shared_RC.sum(axis=0) + _CATEGORY_SHRINKAGE)
        return [
            float(shared_RC.mean()),
            float(shared_RC[-_RECENT:].mean()),
            float(liking_C.mean()),
            float(liking_C.max()),
            float(liking_C.min()),
        ]


def _profile_words(store: TokenStore) -> Floats:
    """Which of the most telling profile tokens each user has, [U + 1, P]; the last row is nobody.

    A profile is text; its words (an age band, an occupation) are indicators. Those in about half of
    the profiles tell most.
    """
    bags = [np.unique(store.piece(store.piece_of("profile", u))) for u in range(store.n_users)]
    users = np.repeat(np.arange(store.n_users), [len(bag) for bag in bags])
    words, column = np.unique(np.concatenate([*bags, np.empty(0, np.int32)]), return_inverse=True)
    share = np.bincount(column, minlength=len(words)) / max(1, store.n_users)
    chosen = np.sort(np.argsort(-share * (1 - share), kind="stable")[:_PROFILE_WORDS])
    place = np.full(len(words), -1)
    place[chosen] = np.arange(len(chosen))
    kept = place[column] >= 0
    table_UP = np.zeros((store.n_users + 1, len(chosen)))
    table_UP[users[kept], place[column[kept]]] = 1.0
    return table_UP
