"""Questions into branches: the only place that knows how a branch is written."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.draws import Draws
from data_pipeline.store import TokenStore
from data_pipeline.tasks import applicable
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

    A branch is: instruction, question, answer cue, answer. The label words are checked once: those
    of each task that applies to the store must be single, distinct tokens behind the cue.
    """

    def __init__(self, store: TokenStore, tasks: Sequence[Task]) -> None:
        self._store = store
        self._tasks = tuple(tasks)
        self._titles = store.card.first_piece["title"]
        noun = store.card.item_noun
        self._instructions = [
            [
                store.constant(instruction_text(task, phrasing, noun))
                for phrasing in range(len(task.instructions) + len(task.held_out_instructions))
            ]
            for task in self._tasks
        ]
        self._cues: list[int] = []
        self._labels: list[Ids] = []
        for task in self._tasks:
            cue = store.encoder.piece(cue_of(task))
            labels = _NO_CHOICES
            if task.labels and applicable(task, store) is None:
                cue, labels = store.encoder.labels(cue_of(task), task.labels)
            self._cues.append(store.constant_of(cue))
            self._labels.append(labels)

    def phrasing(self, task: int, draws: Draws, *, held_out: bool = False) -> int:
        """Draw one of the phrasings that are trained on, or one that is held out."""
        trained = len(self._tasks[task].instructions)
        if held_out:
            return trained + draws.below(len(self._tasks[task].held_out_instructions))
        return draws.below(trained)

    def write(
        self, asked: Sequence[Asked], *, opening: int | None = None, attach: int | None = None
    ) -> tuple[Branch, ...]:
        """Write the branches of one moment. An answer's last token is expected, never fed.

        Args:
            asked: what is asked at the moment.
            opening: a piece that each branch begins with, before its instruction.
            attach: trunk tokens that the branches see; None: all of the trunk.
        """
        pieces: list[int] = []
        firsts: list[int] = []
        written: list[int] = []
        for task, _, question, phrasing in asked:
            firsts.append(len(pieces))
            if opening is not None:
                pieces.append(opening)
            pieces.append(self._instructions[task][phrasing])
            pieces.extend(question.pieces)
            pieces.append(self._cues[task])
            answer_pieces = question.text
            if not (question.n_choices or answer_pieces):
                answer_pieces = (self._titles + question.label,)
            pieces.extend(answer_pieces)
            written.append(len(answer_pieces))
        # One gather for the whole tree; the branches are views of it.
        ids, lengths = self._store.gather(pieces)
        stops = np.cumsum(np.add.reduceat(lengths, firsts)).tolist()
        branches = []
        begin = 0
        for (task, subject, question, phrasing), n_written, behind, stop in zip(
            asked, written, [*firsts[1:], len(pieces)], stops, strict=True
        ):
            if question.n_choices:
                end = stop
                choices = (
                    np.array(question.answers, np.int32)
                    if question.answers
                    else self._labels[task][: question.n_choices]
                )
                answer = choices[question.label : question.label + 1]
            else:  # the title or text stands there, to be fed but for its last token
                end, choices = stop - 1, _NO_CHOICES
                answer = ids[stop - int(lengths[behind - n_written : behind].sum()) : stop]
            branches.append(
                Branch(
                    task=task,
                    subject=subject,
                    phrasing=phrasing,
                    tokens=ids[begin:end],
                    answer=answer,
                    choices=choices,
                    question=question,
                    attach=attach,
                )
            )
            begin = stop
        return tuple(branches)
