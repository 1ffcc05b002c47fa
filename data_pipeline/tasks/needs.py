"""What a task needs of a corpus, and how to say that it is not there."""

from collections.abc import Callable, Iterable
from typing import Final

from data_pipeline.described import Described
from data_pipeline.store_tables import REVIEW_KIND
from data_pipeline.tasks.needs_tables import TABLE_CHECKS

DOMAIN_FIELDS: Final = ("main_category", "category", "department", "categories", "genres")
"""Fields of items that tell one kind of them from another; the first that there is counts."""
GENRE_FIELDS: Final = ("genres", "categories", "category")
"""Categories of items that tell tastes apart; the first that there is counts."""
CLICKED: Final = "clicked"
SKIPPED: Final = "skipped"
"""What was done with an item of an impression."""


def missing(needs: Iterable[str], store: Described) -> str | None:
    """Return None where a corpus has all of these, else what it lacks, as a sentence.

    Needs are:
        values          graded values, such as ratings, of three or more steps
        values.1-5      whole values from 1 to 5
        item.FIELD      a category, number or year of items
        user.*          any profile field
        user.FIELD      this profile field
        event.FIELD     this field of events
        sentences       reviews, with their first sentences as pieces
        domains         one of `DOMAIN_FIELDS`
        genres          one of `GENRE_FIELDS`
        times           when events happened
        impressions     events that are clicked and events that are skipped
        actions         several actions, and not those of impressions alone
        judgements.*    judged queries; `.several` grades; `.graded` on a scale; `.positive` ones
                        alone; else a label
        searches.clicked    results of searches that were clicked, and others that were skipped
        tags.said       tags that somebody gave; `.relevance`: weights from 0 to 1
        links.RELATION  pairs of items of this relation
        categories.trained  an item category that can be asked about; `.held`: one kept back

    Raises:
        ValueError: a need is none of these.
    """
    for need in sorted(needs):
        kind, _, name = need.partition(".")
        if kind not in _CHECKS:
            raise ValueError(f"a task needs {need!r}: choose of {', '.join(_CHECKS)}")
        reason = _CHECKS[kind](store, name)
        if reason:
            return reason
    return None


def _values(store: Described, name: str) -> str | None:
    card = store.card
    if card.like_at_least is None:
        return "its events carry no graded values (fewer than three distinct ones)"
    if name and not set(card.values) <= {1.0, 2.0, 3.0, 4.0, 5.0}:
        return f"its values {card.values} are not on a scale of 1 to 5"
    return None


def _item(store: Described, name: str) -> str | None:
    card = store.card
    known = (*card.category_fields, *card.number_fields, *card.year_fields)
    return None if name in known else f"its items have no field {name!r}"


def _user(store: Described, name: str) -> str | None:
    if name == "*":
        return None if store.card.user_fields else "its users have no profile fields"
    return None if name in store.card.user_fields else f"its users have no field {name!r}"


def _event(store: Described, name: str) -> str | None:
    return None if name in store.card.event_fields else f"its events have no field {name!r}"


def _sentences(store: Described, _: str) -> str | None:
    missing = _event(store, REVIEW_KIND)
    if missing is None and not store.card.has_sentences:
        return "its token store holds no first sentences of reviews: compile it again"
    return missing


def genre_field(store: Described) -> str | None:
    """Return the field of items that tells tastes apart, None where there is none."""
    return next((name for name in GENRE_FIELDS if name in store.card.category_fields), None)


def _genres(store: Described, _: str) -> str | None:
    if genre_field(store):
        return None
    return f"its items have none of the fields {', '.join(GENRE_FIELDS)}"


def _domains(store: Described, _: str) -> str | None:
    if set(DOMAIN_FIELDS) & set(store.card.category_fields):
        return None
    return "its items have no field that tells kinds of them apart, such as 'category'"


def _times(store: Described, _: str) -> str | None:
    return None if store.card.has_times else "it is not known when its events happened"


def _impressions(store: Described, _: str) -> str | None:
    if {CLICKED, SKIPPED} <= set(store.card.actions):
        return None
    return "it has no impressions: no events that are 'clicked' and others that are 'skipped'"


def _actions(store: Described, _: str) -> str | None:
    actions = set(store.card.actions)
    if len(actions) < 2:
        return "all its events are of one action"
    return "its only actions are those of impressions" if actions == {CLICKED, SKIPPED} else None


_CHECKS: Final[dict[str, Callable[[Described, str], str | None]]] = {
    "values": _values,
    "item": _item,
    "user": _user,
    "event": _event,
    "sentences": _sentences,
    "domains": _domains,
    "genres": _genres,
    "times": _times,
    "impressions": _impressions,
    "actions": _actions,
    **TABLE_CHECKS,
}
