"""Does a task give its answer away? Prompts and phrasings looked at as a careless model would.

A model finds the easiest way to a right answer. If one token of the question tells the answer, or
the place of the right option does, the task measures nothing; if a phrasing that is kept back says
the same words as one that is trained on, nothing is kept back.

Shape letters: Q questions.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import applicable
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch

QUESTIONS: Final = 400
FEWEST: Final = 10
"""Questions with and without an answer, before a token is said to tell it."""
_TELLS: Final = 0.98
_ODD_PLACE: Final = 6.0
"""Standard deviations from an even share of the places."""
_ALIKE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Leak:
    """One way in which a task gives its answer away."""

    task: str
    kind: str
    """`token`, `place` or `phrasing`"""
    message: str


def audit_tasks(store: TokenStore, tasks: Sequence[Task], *, seed: int = 0) -> list[Leak]:
    """Look for answers that stand in the question, over questions of the test phase.

    Args:
        store: where questions come from; tasks that do not apply to it are left out.
        tasks: label tasks are looked through for telling tokens, choices for a telling place.
        seed: of the questions.
    """
    wanted = [
        task
        for task in tasks
        if task.kind in ("label", "choice") and applicable(task, store) is None
    ]
    drawn = EvaluationSet(
        store, wanted, phase=Phase.TEST, config=MixtureConfig(), seed=seed, max_targets=QUESTIONS
    )
    asked: dict[str, list[Branch]] = defaultdict(list)
    for tree in drawn:
        for branch in tree.branches:
            asked[wanted[branch.task].name].append(branch)
    leaks = []
    for task in wanted:
        find = _telling_tokens if task.kind == "label" else _telling_places
        leaks += [Leak(task.name, *found) for found in find(store, task, asked[task.name])]
    return leaks


def audit_phrasings(tasks: Sequence[Task]) -> list[Leak]:
    """Look for kept-back phrasings that training says as well.

    Kept back are the held-out phrasings of every task and all phrasings of tasks that are never
    trained on. Case, punctuation and the order of words do not make a phrasing another one.
    """
    trained: dict[frozenset[str], str] = {}
    for task in tasks:
        if task.tier == "T1":
            trained.update({_words(text): task.name for text in task.instructions})
    leaks = []
    for task in tasks:
        kept_back = task.held_out_instructions
        if task.tier != "T1":
            kept_back = (*task.instructions, *kept_back)
        for text in kept_back:
            other = _said_alike(_words(text), trained)
            if other is not None:
                message = f"{text!r} is kept back, but training on {other!r} says it as well"
                leaks.append(Leak(task.name, "phrasing", message))
    return leaks


def _telling_tokens(
    store: TokenStore, task: Task, asked: Sequence[Branch]
) -> Iterator[tuple[str, str]]:
    """Yield answers that a single token of the question goes with, or stays away from."""
    label_Q = np.array([branch.question.label for branch in asked])
    has: dict[int, list[int]] = defaultdict(list)
    for place, branch in enumerate(asked):
        for token in set(branch.tokens.tolist()):
            has[token].append(place)
    for label, word in enumerate(task.labels):
        is_label_Q = label_Q == label
        n_with, n_without = int(is_label_Q.sum()), int((~is_label_Q).sum())
        if min(n_with, n_without) < FEWEST:
            continue
        for token, places in has.items():
            with_label = int(is_label_Q[places].sum())
            among, elsewhere = with_label / n_with, (len(places) - with_label) / n_without
            if abs(among - elsewhere) >= 2 * _TELLS - 1:
                text = store.encoder.decode([token])
                yield (
                    "token",
                    f"{text!r} stands in {among:.0%} of the questions answered {word!r} and in "
                    f"{elsewhere:.0%} of the others: the question holds its answer",
                )
                break  # one is enough to see it


def _telling_places(
    store: TokenStore, task: Task, asked: Sequence[Branch]
) -> Iterator[tuple[str, str]]:
    """Yield the place at which the right option stands too often to be chance."""
    by_size: dict[int, Counter[int]] = defaultdict(Counter)
    for branch in asked:
        by_size[branch.question.n_choices][branch.question.label] += 1
    for size, places in by_size.items():
        n, even = places.total(), 1.0 / size
        place, count = places.most_common(1)[0]
        if n >= 2 * FEWEST and (count - n * even) > _ODD_PLACE * np.sqrt(n * even * (1 - even)):
            yield (
                "place",
                f"the right one of {size} options is number {place + 1} in {count} of {n} "
                "questions: shuffle them by view.draws",
            )


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[\w{}]+", text.casefold()))


def _said_alike(words: frozenset[str], trained: Mapping[frozenset[str], str]) -> str | None:
    for other, name in trained.items():
        if len(words & other) >= _ALIKE * len(words | other):
            return name
    return None
