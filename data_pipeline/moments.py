"""Moments of users: where a history ends and the events begin that may be asked about."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import Draws
from data_pipeline.epochs import Epochs
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import History
from data_pipeline.tree import NOBODY, Ages, Moment

COLD_SHOTS: Final = (0, 1, 3, 5, 10)
"""How many events of a new user are known (360Brew's cold-start buckets, small end)."""


class Moments:
    """Chooses moments of one store.

    Training walks over all users' events in epochs of blocks; `latest` knows only the last block
    of each user. `events_U` are the training events of each user; None: as the store has them.
    `ages` says what dates the events of their histories.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        history_events: int,
        window: int,
        latest: bool = False,
        targets_per_user: int | None = None,
        events_U: NDArray[np.int64] | None = None,
        ages: Ages = "moment",
    ) -> None:
        self._store = store
        self._ages: Ages = ages
        self._history = history_events
        self._window = window
        self._latest = latest
        self.epochs = Epochs(
            store.train_stops_U - store.user_offsets_U1[:-1] if events_U is None else events_U,
            window,
            newest_only=latest,
            per_user=targets_per_user,
        )

    def training(
        self,
        index: int,
        seed: int,
        history: History,
        draws: Draws,
        history_events: int | None = None,
    ) -> Moment:
        """Return the moment of an index: a pure function of its arguments."""
        if history == "item":
            return NOBODY
        user, block = self.epochs.block(index, seed)
        first = int(self._store.user_offsets_U1[user])
        stop = int(self._store.train_stops_U[user])
        if history == "cold":
            cut = first + COLD_SHOTS[draws.below(len(COLD_SHOTS))]
        else:
            if self._latest:
                begin = max(first, stop - self._window)
            else:
                begin = first + block * self._window
            cut = begin + draws.below(self._window)
        cut = self._back(min(cut, stop - 1))
        return self._moment(user, cut, stop, history, history_events or self._history)

    def along(self, moment: Moment, start: int, n: int, draws: Draws) -> list[Moment]:
        """Draw n training moments, or as many as there are, at which requests of a history begin.

        Args:
            moment: where the history ends.
            start: row of the first event that is shown; each of the moments has seen one at least.
            n: how many.
            draws: to draw them from.
        """
        opens_E = self._store.event_opens_request_E[start + 1 : moment.cut]
        cuts = sorted(draws.sample((np.flatnonzero(opens_E) + start + 1).tolist(), n))
        stop = int(self._store.train_stops_U[moment.user])
        return [
            replace(
                moment,
                start=start,
                cut=cut,
                stop=min(stop, cut + self._window),
                time=int(self._store.event_time_E[cut]),
            )
            for cut in cuts
        ]

    def evaluation(self, user: int, phase: Phase, history: History) -> Iterator[Moment]:
        """Yield the moments of a user whose windows lie within a phase, in time order."""
        first, end = (int(row) for row in self._store.user_offsets_U1[user : user + 2])
        inside = np.flatnonzero(self._store.event_phase_E[first:end] == phase)
        if not len(inside):
            return
        begin, stop = first + int(inside[0]), first + int(inside[-1]) + 1
        if history == "cold":
            if begin > first:
                return  # this user was there before
            cuts = sorted({self._forward(first + shots, stop) for shots in COLD_SHOTS})
        elif history == "none":
            cuts = [self._forward(begin, stop)]
        else:
            cuts = [self._forward(cut, stop) for cut in range(begin, stop, self._window)]
        for cut in dict.fromkeys(cuts):
            if cut < stop:
                yield self._moment(user, cut, stop, history, self._history)

    def with_whole_requests(self, moment: Moment) -> Moment:
        """Return the moment with a window that ends where a request does."""
        end = int(self._store.user_offsets_U1[moment.user + 1])
        return replace(moment, stop=self._forward(moment.stop, end))

    def _moment(
        self, user: int, cut: int, stop: int, history: History, history_events: int
    ) -> Moment:
        first = int(self._store.user_offsets_U1[user])
        return Moment(
            user=user,
            start=cut if history == "none" else max(first, cut - history_events),
            cut=cut,
            stop=min(stop, cut + self._window),
            time=int(self._store.event_time_E[cut]),
            ages=self._ages,
            anonymous=history == "anonymous",
        )

    def _back(self, cut: int) -> int:
        """Move back to where a request begins: no request is cut in two."""
        while not self._store.event_opens_request_E[cut]:
            cut -= 1
        return cut

    def _forward(self, cut: int, stop: int) -> int:
        while cut < stop and not self._store.event_opens_request_E[cut]:
            cut += 1
        return cut
