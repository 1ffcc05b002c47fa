"""What people call items."""

from typing import ClassVar, Final

import numpy as np

from data_pipeline.tasks.base import LETTERS, History, Kind, Rows, Task
from data_pipeline.tasks.cues import TAG
from data_pipeline.tasks.needs_tables import IRRELEVANT_BELOW, RELEVANT_FROM
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

OPTIONS: Final = 10
FEWEST_OPTIONS: Final = 4
"""Where a corpus has no more tags to choose from."""


class TagSuggestion(Task):
    """T27: the tag that somebody gave an item, among up to ten.

    The subject is the row of the tags table in which the pair was first said: training asks about
    pairs of training time, evaluation about pairs that nobody had said by then. Wrong tags are
    drawn by how many items bear them, as the right ones are, and none was given to the item.
    """

    name = "tag_suggestion"
    code = "T27"
    family = "tags"
    kind: ClassVar[Kind] = "choice"
    history: ClassVar[History] = "item"
    labels = LETTERS[:OPTIONS]
    metric = "sampled_mrr"
    baselines = ("popularity", "word_overlap")
    needs = frozenset({"tags.said"})
    constants = (CANDIDATE,)
    instructions = (
        "Which tag would people give this {item}?",
        "Suggest a tag for this {item}.",
        "Pick the tag that somebody used for the candidate.",
        "One of these tags belongs to this {item}. Which?",
    )
    held_out_instructions = ("How do people label this {item}?",)

    def subjects(self, view: View) -> Rows:
        return view.shelf.tagged.rows(view.phase)

    def ask(self, view: View, subject: int) -> Question | None:
        tagged = view.shelf.tagged
        item, right = int(tagged.table.item_A[subject]), int(tagged.table.tag_A[subject])
        given = tagged.of(item, training=view.training)
        tags = [right, *tagged.drawn(view.draws, given, OPTIONS - 1)]
        if len(tags) < FEWEST_OPTIONS:
            return None
        view.draws.shuffle(tags)
        options = view.lettered([view.tag_line(tag) for tag in tags])
        return Question(
            label=tags.index(right),
            pieces=(view.constant(CANDIDATE), view.line(item), *options),
            n_choices=len(tags),
            prior=tuple(tagged.share(tag) for tag in tags),
        )


class TagRelevance(Task):
    """T37: does a tag describe an item well? Weights between the two thresholds are not asked.

    An unseen question: no phase of these weights is ever trained on, so all may be asked about.
    """

    name = "tag_relevance"
    code = "T37"
    family = "tags"
    tier = "T2a"
    history: ClassVar[History] = "item"
    metric = "auc"
    baselines = ("majority", "popularity")
    needs = frozenset({"tags.relevance"})
    constants = (CANDIDATE, TAG)
    instructions = (
        "Does the tag describe this {item}?",
        "Is the tag a good word for the candidate?",
        "Would people agree that this {item} is well described by the tag?",
        "How about this tag: does it fit the {item}?",
    )
    held_out_instructions = ("Is this what the {item} is known for?",)

    def subjects(self, view: View) -> Rows:
        weight_A = view.shelf.tagged.table.weight_A
        return np.flatnonzero((weight_A > RELEVANT_FROM) | (weight_A < IRRELEVANT_BELOW))

    def ask(self, view: View, subject: int) -> Question | None:
        tags = view.shelf.tagged.table
        item, weight = int(tags.item_A[subject]), float(tags.weight_A[subject])
        tag = view.tag_line(int(tags.tag_A[subject]))
        return Question(
            label=int(weight > RELEVANT_FROM),
            pieces=(view.constant(CANDIDATE), view.line(item), view.constant(TAG), tag),
            candidates=(item,),
            n_choices=len(self.labels),
            value=weight,
        )
