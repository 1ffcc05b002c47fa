"""Questions into branches: the only place that knows how a branch is written."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from data_pipeline.draws import Draws
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tasks.texts import cue_of, instruction_text
from data_pipeline.tree import Branch, Ids, Question

_NO_CHOICES: Ids = np.empty(0, np.int32)


class Asked(NamedTuple):
    """A question before it is written."""

    task: int
    subject: int
    question: Question
    phrasing: int


class BranchWriter:
    """Writes the branches of a list of tasks for one store.

    A branch is: instruction, question, answer cue, answer. The label words are checked once: each
    task's must be single, distinct tokens behind the cue.
    """

    def __init__(self, store: TokenStore, tasks: Sequence[Task]) -> None:
        self._store = store
        self._tasks = tuple(tasks)
        noun = store.card.item_noun
        self._instructions = [
            [
                store.piece(store.constant(instruction_text(task, phrasing, noun)))
                for phrasing in range(len(task.instructions) + len(task.held_out_instructions))
            ]
            for task in self._tasks
        ]
        self._labels = [
            store.encoder.labels(cue_of(task), task.labels) if task.labels else None
            for task in self._tasks
        ]
        self._cues = [store.encoder.piece(cue_of(task)) for task in self._tasks]

    def phrasing(self, task: int, draws: Draws, *, held_out: bool = False) -> int:
        """Draw one of the phrasings that are trained on, or one that is held out."""
        trained = len(self._tasks[task].instructions)
        if held_out:
            return trained + draws.below(len(self._tasks[task].held_out_instructions))
        return draws.below(trained)

    def write(self, asked: Sequence[Asked]) -> tuple[Branch, ...]:
        """Write the branches of one tree. An answer's last token is expected, never fed."""
        parts: list[Ids] = []
        ends: list[int] = []
        answers: list[Ids] = []
        choices: list[Ids] = []
        piece = self._store.piece
        for task, _, question, phrasing in asked:
            parts.append(self._instructions[task][phrasing])
            parts.extend([piece(p) for p in question.pieces])
            labels = self._labels[task]
            if labels is None:
                answer = self._store.title_tokens(question.label)
                parts += (self._cues[task], answer[:-1])
                choices.append(_NO_CHOICES)
            else:
                parts.append(labels[0])
                choices.append(labels[1][: question.n_choices])
                answer = labels[1][question.label : question.label + 1]
            answers.append(answer)
            ends.append(len(parts))
        # One copy for the whole tree; the branches are views of it.
        tokens = np.concatenate(parts)
        stops = list(accumulate(map(len, parts)))
        begin = 0
        branches = []
        for (task, subject, question, phrasing), end, answer, options in zip(
            asked, ends, answers, choices, strict=True
        ):
            stop = stops[end - 1]
            branches.append(
                Branch(
                    task=task,
                    subject=subject,
                    phrasing=phrasing,
                    tokens=tokens[begin:stop],
                    answer=answer,
                    choices=options,
                    question=question,
                )
            )
            begin = stop
        return tuple(branches)
