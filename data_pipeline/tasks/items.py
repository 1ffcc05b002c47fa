"""Questions about items alone: a masked field, and which items go together."""

from typing import ClassVar

import numpy as np

from data_pipeline.draws import permuted
from data_pipeline.tasks.base import LETTERS, History, Kind, Task
from data_pipeline.tasks.options import category_options, decade_options
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

_HELD_OUT_SHARE = 10
"""One in so many pairs of items is kept from training, for evaluation."""


class _FieldImputation(Task):
    """T36: one field of an item's record is masked.

    Evaluation asks about items that no training event shows, so that their record never stood in
    a prompt of the training.
    """

    code = "T36"
    family = "items"
    kind: ClassVar[Kind] = "choice"
    history: ClassVar[History] = "item"
    metric = "accuracy"
    baselines = ("popularity",)

    def subjects(self, view: View) -> list[int]:
        counts = view.statistics.item_count_N
        return [int(i) for i in np.flatnonzero(counts > 0 if view.training else counts == 0)]


class ImputeGenre(_FieldImputation):
    """The genre of an item, from its title and year."""

    name = "impute_genre"
    labels = LETTERS[:5]
    needs = frozenset({"item.genres"})
    instructions = (
        "Which genre is this {item}?",
        "Fill in the genre of this {item}.",
        "The genre is missing. Which one is right?",
        "Pick the genre that fits the title.",
    )
    held_out_instructions = ("What genre does a {item} of this name belong to?",)

    def ask(self, view: View, subject: int) -> Question | None:
        return category_options(
            view,
            "genres",
            view.categories("genres", subject),
            len(self.labels),
            subject=(view.constant("Title:"), view.title_line(subject)),
        )


class ImputeDecade(_FieldImputation):
    """The decade of an item, from its title."""

    name = "impute_decade"
    labels = LETTERS[:4]
    needs = frozenset({"item.year"})
    instructions = (
        "From which decade is this {item}?",
        "Fill in the decade of this {item}.",
        "The year is missing. Which decade is right?",
        "Pick the decade that fits the title.",
    )
    held_out_instructions = ("When was a {item} of this name made?",)

    def ask(self, view: View, subject: int) -> Question | None:
        return decade_options(
            view,
            "year",
            subject,
            len(self.labels),
            subject=(view.constant("Title:"), view.bare_line(subject)),
        )


class Similar(Task):
    """T39: do those who like one item like the other more often, or less often, than by chance?

    The label is the lift of co-likes over training events; the subject is a row of
    `Statistics.pairs_P2`. One pair in ten is kept for evaluation.
    """

    name = "similar"
    code = "T39"
    family = "items"
    metric = "auc"
    baselines = ("majority", "popularity")
    history: ClassVar[History] = "item"
    needs = frozenset({"values"})
    instructions = (
        "Do the same people like both of these?",
        "Are these two {items} alike in who likes them?",
        "If someone likes the first, do they like the second?",
        "Would you show the second {item} to fans of the first?",
    )
    held_out_instructions = ("Do these {items} share their fans?",)

    def subjects(self, view: View) -> list[int]:
        n = len(view.statistics.pairs_P2)
        return [
            row for row in range(n) if (permuted(row, n, 39) % _HELD_OUT_SHARE > 0) == view.training
        ]

    def ask(self, view: View, subject: int) -> Question | None:
        first, second = (int(i) for i in view.statistics.pairs_P2[subject])
        if view.draws.random() < 0.5:
            first, second = second, first
        return Question(
            label=int(view.statistics.pair_alike_P[subject]),
            pieces=view.lettered([view.line(first), view.line(second)]),
            candidates=(first, second),
            n_choices=2,
        )
