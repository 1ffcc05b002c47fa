"""What a task needs of a corpus, and how to say that it is not there."""

from collections.abc import Callable, Iterable
from typing import Final

from data_pipeline.store import StoreCard, TokenStore

CLICKED: Final = "clicked"
SKIPPED: Final = "skipped"
"""What was done with an item of an impression."""


def missing(needs: Iterable[str], store: TokenStore) -> str | None:
    """Return None where a corpus has all of these, else what it lacks, as a sentence.

    Needs are:
        values          graded values, such as ratings, of three or more steps
        values.1-5      whole values from 1 to 5
        item.FIELD      a category, number or year of items
        user.*          any profile field
        user.FIELD      this profile field
        event.FIELD     this field of events
        times           when events happened
        impressions     events that are clicked and events that are skipped
        actions         several actions, and not those of impressions alone
    """
    for need in sorted(needs):
        kind, _, name = need.partition(".")
        check = _CHECKS.get(kind)
        reason = check(store, name) if check else None
        if reason:
            return reason
    return None


def event_fields(card: StoreCard) -> frozenset[str]:
    """Return the names of the fields of events; none in stores that keep no such fields."""
    return frozenset(getattr(field, "name", field) for field in getattr(card, "event_fields", ()))


def _values(store: TokenStore, name: str) -> str | None:
    card = store.card
    if card.like_at_least is None:
        return "its events carry no graded values (fewer than three distinct ones)"
    if name and not set(card.values) <= {1.0, 2.0, 3.0, 4.0, 5.0}:
        return f"its values {card.values} are not on a scale of 1 to 5"
    return None


def _item(store: TokenStore, name: str) -> str | None:
    card = store.card
    known = (*card.category_fields, *card.number_fields, *card.year_fields)
    return None if name in known else f"its items have no field {name!r}"


def _user(store: TokenStore, name: str) -> str | None:
    if name == "*":
        return None if store.card.user_fields else "its users have no profile fields"
    return None if name in store.card.user_fields else f"its users have no field {name!r}"


def _event(store: TokenStore, name: str) -> str | None:
    return None if name in event_fields(store.card) else f"its events have no field {name!r}"


def _times(store: TokenStore, _: str) -> str | None:
    # Either all events have a time or none has.
    known = store.n_events and int(store.event_time_E[0]) >= 0
    return None if known else "it is not known when its events happened"


def _impressions(store: TokenStore, _: str) -> str | None:
    if {CLICKED, SKIPPED} <= set(store.card.actions):
        return None
    return "it has no impressions: no events that are 'clicked' and others that are 'skipped'"


def _actions(store: TokenStore, _: str) -> str | None:
    actions = set(store.card.actions)
    if len(actions) < 2:
        return "all its events are of one action"
    return "its only actions are those of impressions" if actions == {CLICKED, SKIPPED} else None


_CHECKS: Final[dict[str, Callable[[TokenStore, str], str | None]]] = {
    "values": _values,
    "item": _item,
    "user": _user,
    "event": _event,
    "times": _times,
    "impressions": _impressions,
    "actions": _actions,
}
