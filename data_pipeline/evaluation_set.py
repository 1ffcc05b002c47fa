"""What an evaluation asks: the same questions in the same order, whoever asks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal, overload

import numpy as np

from data_pipeline.draws import Draws, in_random_order
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.render import Asked, BranchWriter
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import applicable
from data_pipeline.tasks.base import History, Task, own_subjects
from data_pipeline.tasks.view import Shelf, View
from data_pipeline.tree import NOBODY, Moment, Question, Tree

Phrasing = Literal["trained", "held_out"]

_SUBJECTS_PER_MOMENT: Final = 4
"""Targets of one task behind one trunk: few, so that many users are asked about."""


class EvaluationSet(Sequence[Tree]):
    """Trees whose targets lie in one phase of one store; at most `max_targets` of each task.

    Users and the moments of each come in a random order that the seed fixes, and each user has one
    moment before any has a second: short histories count no more than long ones. Histories are
    everything older than the moment, whatever its phase.

    With `whole_impressions` a task that asks what was shown asks about all of a request or about
    nothing of it: ranks within a request are then comparable with those that others publish, but
    fewer users are asked about.
    """

    def __init__(
        self,
        store: TokenStore,
        tasks: Sequence[Task],
        *,
        phase: Phase,
        config: MixtureConfig,
        seed: int,
        max_targets: int,
        phrasing: Phrasing = "trained",
        whole_impressions: bool = False,
    ) -> None:
        self.store = store
        self.tasks = tuple(tasks)
        self.phase = phase
        self.config = config
        self.seed = seed
        self.max_targets = max_targets
        self.phrasing: Phrasing = phrasing
        self.whole_impressions = whole_impressions
        self._style = config.styles[0]
        self._shelf = Shelf(store, config.choice_answers)
        self._writer = BranchWriter(store, tasks)
        self._moments = Moments(
            store,
            history_events=config.history_events,
            window=config.targets_per_tree,
            ages=config.ages,
        )
        self._counts = [0] * len(self.tasks)
        self._shown: set[tuple[int, int]] = set()
        self._asked: list[tuple[Moment, tuple[Asked, ...]]] = list(self._ask_all())

    def __len__(self) -> int:
        return len(self._asked)

    @overload
    def __getitem__(self, index: int) -> Tree: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tree]: ...
    def __getitem__(self, index: int | slice) -> Tree | list[Tree]:
        """Return one tree, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        moment, asked = self._asked[index]
        trunk, _ = self.store.trunk(moment, self._style, self.config.max_trunk_tokens)
        return Tree(corpus=0, moment=moment, trunk=trunk, branches=self._writer.write(asked))

    @property
    def targets(self) -> dict[str, int]:
        """Targets of each task."""
        return {task.name: n for task, n in zip(self.tasks, self._counts, strict=True)}

    def _ask_all(self) -> Iterator[tuple[Moment, tuple[Asked, ...]]]:
        users = list(range(self.store.n_users))
        Draws(self.seed, 0).shuffle(users)
        inside_E1 = np.concatenate([[0], np.cumsum(self.store.event_phase_E == self.phase)])
        events_U = np.diff(inside_E1[self.store.user_offsets_U1])
        users = [user for user in users if events_U[user]]
        for history in ("full", "cold", "none", "anonymous"):
            tasks = self._tasks_behind(history)
            if tasks:
                yield from self._ask_users(users, tasks, history)
        items = [one for task in self._tasks_behind("item") for one in self._ask_rows(task)]
        for part in self._parts(items):
            yield NOBODY, part
        for task in self._tasks_behind("demonstrations"):
            for part in self._parts(list(self._ask_rows(task))):
                yield self._behind_others(task, [one.subject for one in part]), part

    def _tasks_behind(self, history: History) -> list[int]:
        return [
            i
            for i, task in enumerate(self.tasks)
            if task.history == history and applicable(task, self.store) is None
        ]

    def _ask_users(
        self, users: list[int], tasks: list[int], history: History
    ) -> Iterator[tuple[Moment, tuple[Asked, ...]]]:
        """Go round the users, one moment of each at a time, until every task has its targets."""
        waiting = {user: self._moments_of(user, history) for user in users}
        while waiting:
            for user in list(waiting):
                moment = next(waiting[user], None)
                if moment is None:
                    del waiting[user]
                    continue
                wanted = [t for t in tasks if self._counts[t] < self.max_targets]
                if not wanted:
                    return
                asked: list[Asked] = []
                for task in wanted:
                    if self.whole_impressions and self.tasks[task].asks_what_was_shown:
                        # As many as were shown: not behind one trunk with everything else.
                        for part in self._parts(self._ask_shown(task, moment)):
                            yield moment, part
                    else:
                        asked += self._ask(task, moment)
                if asked:
                    yield moment, tuple(asked)

    def _moments_of(self, user: int, history: History) -> Iterator[Moment]:
        """Yield a user's moments in random order; nothing is found out before the first is due."""
        moments = list(self._moments.evaluation(user, self.phase, history))
        if len(moments) > 1:
            Draws(self.seed, user + 1).shuffle(moments)
        yield from moments

    def _ask(self, task: int, moment: Moment) -> Iterator[Asked]:
        # Seeded by what is asked, so that adding a task or a user changes no other question.
        draws = Draws(self.seed, moment.cut * 1009 + _name_hash(self.tasks[task].name))
        view = View(self._shelf, moment, self.phase, draws, self._style)
        own = self.tasks[task].subjects(view)
        if own is not None:
            rows = [int(row) for row in own]
        else:
            rows = [moment.cut] if self.tasks[task].next_only else list(view.window)
        draws.shuffle(rows)
        found = 0
        for row in rows:
            if found == _SUBJECTS_PER_MOMENT or self._counts[task] >= self.max_targets:
                return
            question = self.tasks[task].ask(view, row)
            if question is not None:
                found += 1
                yield self._noted(task, row, question, draws)

    def _ask_shown(self, task: int, moment: Moment) -> list[Asked]:
        """Ask about all of one request of the window, if any is left that fits."""
        moment = self._moments.with_whole_requests(moment)
        draws = Draws(self.seed, moment.cut * 1009 + _name_hash(self.tasks[task].name))
        view = View(self._shelf, moment, self.phase, draws, self._style)
        opens_E, phase_E = self.store.event_opens_request_E, self.store.event_phase_E
        requests = [view.request(row) for row in view.window if opens_E[row]]
        draws.shuffle(requests)
        for rows in requests:
            fits = self._counts[task] + len(rows) <= self.max_targets
            if not fits or (task, rows.start) in self._shown:
                continue
            if (phase_E[rows.start : rows.stop] != self.phase).any():
                continue
            found = [(row, self.tasks[task].ask(view, row)) for row in rows]
            asked = [(row, question) for row, question in found if question is not None]
            if asked:
                # Windows of a user may overlap.
                self._shown.add((task, rows.start))
                return [self._noted(task, row, question, draws) for row, question in asked]
        return []

    def _ask_rows(self, task: int) -> Iterator[Asked]:
        """Ask about a task's own subjects, without a user."""
        draws = Draws(self.seed, _name_hash(self.tasks[task].name))
        view = View(self._shelf, NOBODY, self.phase, draws, self._style)
        for subject in in_random_order(own_subjects(self.tasks[task], view), draws):
            if self._counts[task] >= self.max_targets:
                return
            question = self.tasks[task].ask(view, subject)
            if question is not None:
                yield self._noted(task, subject, question, draws)

    def _parts(self, asked: Sequence[Asked]) -> Iterator[tuple[Asked, ...]]:
        """Branches of one tree each."""
        size = self.config.targets_per_tree
        return (tuple(asked[first : first + size]) for first in range(0, len(asked), size))

    def _behind_others(self, task: int, subjects: list[int]) -> Moment:
        """The moment whose trunk shows labelled rows of users who are not asked about."""
        # Of a stream of their own, so that more or fewer rows change no question.
        draws = Draws(self.seed, (subjects[0] + 1) * 1009 + _name_hash(self.tasks[task].name))
        view = View(self._shelf, NOBODY, self.phase, draws, self._style)
        rows = self.tasks[task].demonstrations(view, subjects, self.config.demonstrations)
        return replace(NOBODY, demonstrations=tuple(rows))

    def _noted(self, task: int, subject: int, question: Question, draws: Draws) -> Asked:
        self._counts[task] += 1
        phrasing = self._writer.phrasing(task, draws, held_out=self.phrasing == "held_out")
        return Asked(task, subject, question, phrasing)


def _name_hash(name: str) -> int:
    """A small number from a name, the same in every process."""
    value = 0
    for char in name:
        value = (value * 31 + ord(char)) % 1009
    return value
