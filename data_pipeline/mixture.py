"""The mixture: a pure function (seed, index) -> tree over tasks and corpora."""

from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from functools import cached_property
from itertools import accumulate
from typing import Final

import numpy as np

from data_pipeline.dealing import Dealing
from data_pipeline.draws import Draws
from data_pipeline.errors import DataError
from data_pipeline.files import fingerprint
from data_pipeline.fitting import excess, too_long
from data_pipeline.fraction import training_events
from data_pipeline.history_labels import can_supervise, history_labels
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.render import Asked, BranchWriter
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks, applicable
from data_pipeline.tasks.base import History, Task, own_subjects
from data_pipeline.tasks.held_out import held_out_because
from data_pipeline.tasks.view import Shelf, View
from data_pipeline.tree import NOBODY, Branch, HistoryWindow, Moment, Tree

__all__ = ["Mixture", "MixtureConfig", "chosen_tasks"]

_NEXT_WITHIN: Final = 4
"""While training, "next" may be any of so many events: predicting the next few learns faster."""
_TRIES_PER_BRANCH: Final = 4
_MOMENTS_TRIED: Final = 128
"""Many, for few moments have a search behind them where nothing else is asked."""
_ABOUT_USERS: Final[tuple[History, ...]] = ("full", "cold", "none")
_HISTORIES: Final[tuple[History, ...]] = (*_ABOUT_USERS, "item")


class Mixture:
    """Trees by index, unbounded. The state of the data stream is the next index.

    Args:
        stores: token stores that share a tokenizer.
        config: which tasks, how often, of how much history.
        seed: of everything random.

    Raises:
        DataError: a task is unknown, is never to be trained on, or applies to none of the stores.
    """

    def __init__(self, stores: Sequence[TokenStore], config: MixtureConfig, *, seed: int) -> None:
        weights = chosen_tasks(stores, config)
        self.stores = tuple(stores)
        self.config = config
        self.seed = seed
        self.context_length: int | None = None
        """Positions of the model that the trees are for, where it is known: trunks leave room for
        their longest branch."""
        self.tasks: tuple[Task, ...] = tuple(all_tasks()[name] for name in weights)
        self._grounds = [
            _Ground(index, store, self.tasks, list(weights.values()), config, seed)
            for index, store in enumerate(self.stores)
        ]
        self._check_history_labels()
        self._check_ages()
        self._dealing = Dealing(self._part_weights(), seed)

    def __getitem__(self, index: int) -> Tree:
        """Return the tree of an index.

        Raises:
            DataError: no task applies to any of several moments tried, or a question is longer than
                `context_length` though no history stands before it.
        """
        store, about_items, place = self.part_of(index)
        ground = self._grounds[store]
        history_events, room = self.config.limits(index)
        while True:
            draws, limits = Draws(self.seed, index), (history_events, room)
            tree = ground.tree(place, self.seed, draws, about_items=about_items, limits=limits)
            over = excess(tree, self.context_length) if self.context_length else 0
            if not over:
                return tree
            if len(tree.trunk) > room:  # what is left of it is no history
                raise too_long(tree, self.context_length or 0, self.tasks, ground.store)
            room = len(tree.trunk) - over

    def part_of(self, index: int) -> tuple[int, bool, int]:
        """Return the store of an index, whether it asks about items only, and its turn among such.

        A store's trees about users walk its epochs by their turns.
        """
        part, turn = self._dealing.deal(index)
        return part // 2, bool(part % 2), turn

    @property
    def epoch_lengths(self) -> tuple[int, ...]:
        """Trees about users in an epoch of each store."""
        return tuple(ground.moments.epochs.length for ground in self._grounds)

    @property
    def training_users(self) -> dict[str, int]:
        """How many users of each corpus may be learned from."""
        users = (int(np.count_nonzero(ground.events_U)) for ground in self._grounds)
        return dict(zip(self.corpus_names, users, strict=True))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What a resumed run must find unchanged, by part."""
        tasks = [
            [t.name, t.kind, list(t.labels), list(t.instructions), list(t.held_out_instructions)]
            for t in self.tasks
        ]
        return {
            "corpus": fingerprint([store.fingerprint for store in self.stores]),
            "tokenizer": self.stores[0].card.tokenizer_fingerprint,
            "tasks": fingerprint(tasks),
            "mixture": fingerprint([asdict(self.config), self.seed]),
        }

    @cached_property
    def corpus_names(self) -> tuple[str, ...]:
        """The name of each store's corpus; the second of a name is `NAME (2)`."""
        names = [store.card.corpus_name for store in self.stores]
        counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
        return tuple(
            name if n == 1 else f"{name} ({n})" for name, n in zip(names, counts, strict=True)
        )

    def _check_history_labels(self) -> None:
        if self.config.history_loss_weight and all(
            store.card.action_label_offset is None for store in self.stores
        ):
            raise DataError(
                f"the actions of corpus {' and of '.join(self.corpus_names)} do not differ in "
                "exactly one token, so no past action can be supervised",
                remedy="set mixture.history_loss_weight to 0",
            )

    def _check_ages(self) -> None:
        moments = self.config.moments_per_tree
        timed = any(store.card.has_times for store in self.stores)
        if moments > 1 and self.config.ages == "moment" and timed:
            raise DataError(
                f"mixture.moments_per_tree is {moments}, but events are dated from where their "
                "history ends, which is later than the moments along it",
                remedy="set mixture.ages to gaps",
            )

    def _part_weights(self) -> list[float]:
        """Two parts for each store: trees about users, and trees about items only."""
        given = self.config.store_weights
        if given and len(given) != len(self.stores):
            raise DataError(
                f"mixture.store_weights has {len(given)} weights for {len(self.stores)} stores",
                value=given,
                remedy="give one weight per store, or none",
            )
        parts = []
        for place, ground in enumerate(self._grounds):
            weight = given[place] if given else ground.size**self.config.temperature
            whole = sum(ground.kind_weights.values()) or 1.0
            about_items = ground.kind_weights["item"] / whole
            about_users = (whole - ground.kind_weights["item"]) / whole
            parts += [weight * about_users, weight * about_items]
        if not any(parts):
            raise DataError(
                "no store has a weight and something to ask about",
                value=given or None,
                remedy="`brewhouse tasks list --store STORE` says what applies to a store",
            )
        return parts


class _Ground:
    """One store's part of a mixture."""

    def __init__(
        self,
        index: int,
        store: TokenStore,
        tasks: Sequence[Task],
        weights: Sequence[float],
        config: MixtureConfig,
        seed: int,
    ) -> None:
        self.index = index
        self.store = store
        self.config = config
        self.shelf = Shelf(store, config.choice_answers)
        self.tasks = tuple(tasks)
        self.writer = BranchWriter(store, tasks)
        self.events_U = training_events(store, config.user_fraction, seed)
        self.moments = Moments(
            store,
            history_events=config.history_events,
            window=config.targets_per_tree,
            latest=config.history == "latest",
            targets_per_user=config.caps.per_user,
            events_U=self.events_U,
            ages=config.ages,
        )
        # For each kind of trunk: the tasks that stand behind it and their rising weights.
        self._behind: dict[History, tuple[list[int], list[float]]] = {}
        self.kind_weights: dict[History, float] = {}
        for history in _HISTORIES:
            indices = [
                i
                for i, task in enumerate(tasks)
                if task.history == history and weights[i] and applicable(task, store) is None
            ]
            steps = list(accumulate(weights[i] for i in indices))
            if history == "item":
                indices, steps = self._with_subjects(indices, weights)
            elif not self.moments.epochs.length:
                indices, steps = [], []
            self._behind[history] = (indices, steps)
            self.kind_weights[history] = steps[-1] if steps else 0.0
        if not config.moments_per_tree:  # the history alone
            known = bool(self.moments.epochs.length) and can_supervise(store, config)
            self.kind_weights = dict.fromkeys(_HISTORIES, 0.0) | {"full": float(known)}
        self._user_steps = list(accumulate(self.kind_weights[kind] for kind in _ABOUT_USERS))

    @property
    def size(self) -> float:
        """What the store counts for among others: training events, or else rows to ask about."""
        caps = self.config.caps
        events_U = self.events_U
        if caps.per_user is not None:
            events_U = np.minimum(events_U, caps.per_user)
        size = int(events_U.sum()) or max(map(len, self._own_subjects.values()), default=0)
        return float(size if caps.per_corpus is None else min(size, caps.per_corpus))

    def tree(
        self, index: int, seed: int, draws: Draws, *, about_items: bool, limits: tuple[int, int]
    ) -> Tree:
        """Return the tree of an index that counts the trees of this store and kind only."""
        history_events, max_trunk_tokens = limits
        history: History = "item"
        if not about_items:
            history = _ABOUT_USERS[draws.weighted(self._user_steps)]
        style = self.config.styles[draws.below(len(self.config.styles))]
        for step in range(_MOMENTS_TRIED):
            moment = self.moments.training(index + step, seed, history, draws, history_events)
            tree = self._tree(moment, history, style, draws, max_trunk_tokens)
            if tree.branches or (tree.trunk_labels.targets and not self.config.moments_per_tree):
                return tree
        raise DataError(
            f"no task applies to any of {_MOMENTS_TRIED} moments of corpus "
            f"{self.store.card.corpus_name!r}",
            remedy="choose other tasks in mixture.tasks; `brewhouse tasks list` says which apply",
        )

    def _tree(
        self, moment: Moment, history: History, style: str, draws: Draws, max_trunk_tokens: int
    ) -> Tree:
        """The tree whose history ends at a moment; without branches where no task applies."""
        config = self.config
        wanted = config.targets_per_tree
        if history != "item":
            wanted = min(wanted, config.caps.per_user or wanted)
        along = history == "full" and config.moments_per_tree > 1
        trunk, spans = self.store.trunk(moment, style, max_trunk_tokens, open_end=along)
        places: list[tuple[Moment, int | None]] = (
            [(moment, None)] if config.moments_per_tree else []
        )
        if along:
            kept = moment.cut - len(spans.items)
            others = min(config.moments_per_tree, wanted) - 1
            earlier = self.moments.along(moment, kept, others, draws)
            places[:0] = [(one, int(spans.lines[one.cut - kept])) for one in earlier]
        branches: list[Branch] = []
        for number, (one, attach) in enumerate(places):
            view = View(self.shelf, one, Phase.TRAIN, draws, style)
            share = wanted * (number + 1) // len(places) - wanted * number // len(places)
            asked = self._ask(view, history, share)
            if asked:
                opening = self.store.since(one) if along else None
                branches += self.writer.write(asked, opening=opening, attach=attach)
        return Tree(
            corpus=self.index,
            moment=moment,
            trunk=trunk,
            branches=tuple(branches),
            trunk_labels=history_labels(self.store, config, trunk, spans, style),
            dropped_events=moment.cut - moment.start - len(spans.items),
            window=(
                HistoryWindow(size=config.history_window, starts=spans.lines)
                if config.history_window is not None and len(spans.lines)
                else None
            ),
        )

    def _ask(self, view: View, history: History, wanted: int) -> list[Asked]:
        tasks, steps = self._behind[history]
        draws = view.draws
        rows = list(view.window)
        draws.shuffle(rows)
        seen: set[tuple[int, int]] = set()
        compared: set[tuple[int, frozenset[int]]] = set()
        asked: list[Asked] = []
        for turn in range(_TRIES_PER_BRANCH * wanted):
            task = tasks[draws.weighted(steps)]
            subject = self._subject(task, view, rows, turn)
            if subject is None or (task, subject) in seen:
                continue
            seen.add((task, subject))
            question = self.tasks[task].ask(view, subject)
            if question is None:
                continue
            if len(question.candidates) > 1:
                # A pair comes up from either of its events: ask about it once.
                candidates = (task, frozenset(question.candidates))
                if candidates in compared:
                    continue
                compared.add(candidates)
            asked.append(Asked(task, subject, question, self.writer.phrasing(task, draws)))
            if len(asked) == wanted:
                break
        return asked

    def _subject(self, task: int, view: View, rows: list[int], turn: int) -> int | None:
        subjects = self._own_subjects.get(task)
        if subjects is None:
            subjects = self.tasks[task].subjects(view)
        if subjects is not None:
            return int(subjects[view.draws.below(len(subjects))]) if len(subjects) else None
        if self.tasks[task].next_only:
            return view.moment.cut + view.draws.below(min(_NEXT_WITHIN, len(rows)))
        return rows[turn % len(rows)]

    def _with_subjects(
        self, indices: list[int], weights: Sequence[float]
    ) -> tuple[list[int], list[float]]:
        view = View(self.shelf, NOBODY, Phase.TRAIN, Draws(0, 0), self.config.styles[0])
        self._own_subjects = {i: own_subjects(self.tasks[i], view) for i in indices}
        kept = [i for i in indices if len(self._own_subjects[i])]
        return kept, list(accumulate(weights[i] for i in kept))


def chosen_tasks(stores: Sequence[TokenStore], config: MixtureConfig) -> dict[str, float]:
    """Return the weight of every task of a mixture, in the order of the catalogue.

    Raises:
        DataError: a name is neither a task nor a family, is evaluation only, or applies nowhere.
    """
    catalogue = all_tasks()
    families = {task.family for task in catalogue.values()}
    for name in config.tasks:
        if name not in catalogue and name not in families:
            near = get_close_matches(name, [*catalogue, *families], n=3)
            raise DataError(
                f"mixture.tasks names {name!r}, which is no task and no family",
                remedy=f"did you mean {' or '.join(near)}?" if near else f"choose of {families}",
            )
        members = [task for task in catalogue.values() if name in (task.name, task.family)]
        if config.tasks[name] and all(task.tier != "T1" for task in members):
            raise DataError(
                f"mixture.tasks names {name!r}, which is for evaluation and never trained on",
                remedy="remove it from mixture.tasks",
            )
    weights: dict[str, float] = {}
    for task in catalogue.values():
        named = task.name in config.tasks
        weight = config.tasks.get(task.name, config.tasks.get(task.family, 0.0))
        weight = weight if config.tasks else 1.0
        reasons = [applicable(task, store) for store in stores]
        if not weight or (all(reasons) and not named):
            continue
        refusal = held_out_because(task)
        if refusal and (named or task.tier == "T1"):
            raise DataError(f"task {task.name!r} {refusal}", remedy="remove it from mixture.tasks")
        if refusal:
            continue
        if all(reasons):
            raise DataError(
                f"task {task.name!r} applies to none of the stores: {reasons[0]}",
                remedy="remove it from mixture.tasks",
            )
        weights[task.name] = float(weight)
    if not weights:
        raise DataError(
            "no task applies to the stores",
            remedy="`brewhouse tasks list --store STORE` says what each task needs",
        )
    return weights
