"""What a publisher says that items have to do with one another."""

from typing import ClassVar, Final

import numpy as np

from data_pipeline.tasks.base import History, Rows, Task
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

SIMILAR: Final = "similar"
_TRIES: Final = 8


class LinkedItems(Task):
    """T39 on published links: are these two similar? Co-likes of other corpora are trained instead.

    The subject is a link. In half of the questions its other end is exchanged for that of another
    link, drawn as often as it stands there, so that popularity tells nothing.
    """

    name = "linked_items"
    code = "T39"
    family = "items"
    tier = "T2b"
    history: ClassVar[History] = "item"
    metric = "sampled_auc"
    baselines = ("majority", "popularity", "item_knn")
    needs = frozenset({"links.similar"})
    instructions = (
        "Are these two {items} similar?",
        "Would a shop list the second {item} beside the first?",
        "Is the second {item} one of those that go with the first?",
        "Does the page of the first {item} point to the second?",
    )
    held_out_instructions = ("Does a catalogue call these two {items} alike?",)

    def subjects(self, view: View) -> Rows:
        links = view.store.links
        assert links is not None, "a task about links needs them"
        return np.flatnonzero(links.relation_L == list(links.relations).index(SIMILAR))

    def ask(self, view: View, subject: int) -> Question | None:
        links = view.store.links
        assert links is not None, "its subjects are links"
        first, second = int(links.item_L[subject]), int(links.other_L[subject])
        alike = view.draws.random() < 0.5
        if not alike:
            other = self._unlinked(view, first)
            if other is None:
                return None
            second = other
        return Question(
            label=int(alike),
            pieces=view.lettered([view.line(first), view.line(second)]),
            candidates=(first, second),
            n_choices=len(self.labels),
        )

    def _unlinked(self, view: View, item: int) -> int | None:
        """Draw the other end of some link that neither leads to the item nor comes from it."""
        links = view.store.links
        assert links is not None, "its subjects are links"
        rows = links.of(item)
        linked = {item, *links.other_L[rows.start : rows.stop].tolist()}
        for _ in range(_TRIES):
            other = int(links.other_L[view.draws.below(len(links.other_L))])
            back = links.of(other)
            if other not in linked and item not in links.other_L[back.start : back.stop]:
                return other
        return None
