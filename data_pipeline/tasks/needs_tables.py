"""What a task needs of a corpus's tables and categories."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from data_pipeline.described import Described
from data_pipeline.tasks.judged import MOST_GRADES

RELEVANT_FROM: Final = 0.7
IRRELEVANT_BELOW: Final = 0.2
"""A tag's weight for an item, from 0 to 1: what says yes, and what says no."""
TAKEN: Final = ("clicked", "bought")
LEFT: Final = ("skipped",)
"""What was done with a result of a search."""
HELD_FIELDS: Final = frozenset({"countries", "country", "languages", "language", "color", "format"})
"""Fields of items that are never trained on, so that a question about an unseen field is left."""
ASKED_OTHERWISE: Final = frozenset({"genres"})
FEWEST_NAMES: Final = 2


def _judgements(store: Described, name: str) -> str | None:
    """`judgements.*`: any; `.several` grades; `.graded` on a scale; `.positive` ones alone.

    Else a label of that name.
    """
    table = store.judgements
    if table is None or not len(table.grade_J):
        return "it has no judged queries"
    if name in ("several", "graded", "positive"):
        grades = len(np.unique(table.grade_J))
        if name == "positive":
            return None if grades == 1 else "its judgements are of several grades"
        if grades < 2:
            return "its judgements are all of one grade"
        if name == "graded" and grades > MOST_GRADES:
            return f"its {grades} different grades are counts, not a scale"
    elif name != "*" and name not in table.labels:
        return f"its judgements have no label {name!r}"
    return None


def _searches(store: Described, _: str) -> str | None:
    table = store.searches
    if table is None or not len(table.item_S):
        return "it has no searches"
    if not (set(TAKEN) & set(table.actions) and set(LEFT) & set(table.actions)):
        return "its searches do not say which results were clicked and which skipped"
    return None


def _tags(store: Described, name: str) -> str | None:
    """`tags.said`: by somebody; `tags.relevance`: weights from 0 to 1, high ones and low ones."""
    table = store.tags
    if table is None or not len(table.item_A):
        return "it has no tags"
    if name == "said" and not (table.user_A >= 0).any():
        return "nobody in particular gave its tags"
    if name == "relevance":
        known = table.weight_A[np.isfinite(table.weight_A)]
        scale = len(known) and known.min() >= 0 and known.max() <= 1
        if not scale or known.max() <= RELEVANT_FROM or known.min() >= IRRELEVANT_BELOW:
            return "its tags have no weights from 0 to 1, high ones and low ones"
    return None


def _links(store: Described, name: str) -> str | None:
    table = store.links
    if table is None or name not in table.relations:
        return f"its items have no links {name!r}"
    return None


def fields_to_impute(store: Described, *, held: bool) -> list[str]:
    """Return the item fields of categories to ask about: those kept back, or the others."""
    names = [name for name in store.card.category_fields if (name in HELD_FIELDS) == held]
    return [
        name
        for name in names
        if name not in ASKED_OTHERWISE and len(store.categories(name).names) >= FEWEST_NAMES
    ]


def _categories(store: Described, name: str) -> str | None:
    if fields_to_impute(store, held=name == "held"):
        return None
    kept = "kept back from training" if name == "held" else "trained on"
    return f"its items have no category of {FEWEST_NAMES} names or more that is {kept}"


TABLE_CHECKS: Final[Mapping[str, Callable[[Described, str], str | None]]] = {
    "judgements": _judgements,
    "searches": _searches,
    "tags": _tags,
    "links": _links,
    "categories": _categories,
}
