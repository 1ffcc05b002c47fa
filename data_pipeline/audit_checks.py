"""Single questions put to a corpus before anything is trained on it; each says what to do.

Shape letters: E events, U users, N items.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import gammaln

from data_pipeline.corpus import Corpus
from data_pipeline.splits import MS_PER_DAY, Phase, Split

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditCheck:
    """One question, its answer, and what to do about it."""

    name: str
    level: Level
    message: str
    measured: dict[str, Any]
    """The numbers behind the answer."""


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def check_time(corpus: Corpus) -> AuditCheck:
    """Are the times times? Equal ones carry no order, 1970 is a wrong unit."""
    if not corpus.card.has_times:
        message = "It is not known when events happened: they are split by user, and nothing that "
        message += "depends on time or order can be asked."
        return AuditCheck(name="time", level="ok", message=message, measured={})
    time_E = corpus.time_E
    first, last = int(time_E.min()), int(time_E.max())
    _, counts = np.unique(time_E, return_counts=True)
    most_common = float(counts.max() / len(time_E))
    measured = {"first_ms": first, "last_ms": last, "most_common_share": most_common}
    level: Level = "ok"
    message = f"{(last - first) / MS_PER_DAY:,.1f} days of events."
    if first == last:
        level = "error"
        message = (
            "All events have the same time: their order is unknown, so nothing sequential can "
        )
        message += "be learned or evaluated. Map the column that says when each event happened."
    elif last < 10 * 365 * MS_PER_DAY:
        level = "warning"
        message = "All events lie before 1980: is the timestamp unit right?"
    elif most_common > 0.1 and len(time_E) > 100:
        level = "warning"
        message = (
            f"{percent(most_common)} of events share one single time: is it a placeholder for "
        )
        message += "a missing one? Remove those events or find their real time."
    return AuditCheck(name="time", level=level, message=message, measured=measured)


def check_duplicates(corpus: Corpus) -> AuditCheck:
    """Events that stand twice cannot be in a corpus; say what was dropped and what recurs."""
    pairs_E = corpus.event_user_E.astype(np.int64) * len(corpus.items) + corpus.event_item_E
    repeats = 1 - len(np.unique(pairs_E)) / len(pairs_E)
    dropped = corpus.card.counts.get("dropped_duplicates", 0)
    message = f"No event stands twice ({dropped:,} repeats were dropped by the import); "
    message += f"{percent(repeats)} of events meet an item that the user had met before."
    measured = {"dropped": dropped, "repeated_item_share": repeats}
    share = dropped / (dropped + len(pairs_E))
    level: Level = "ok"
    if share > 0.2:
        level = "warning"
        message += f" The import dropped {percent(share)} of its events: are times cut to the day?"
    return AuditCheck(name="duplicates", level=level, message=message, measured=measured)


def check_dropped(corpus: Corpus) -> AuditCheck:
    """How many events referred to nothing known."""
    dropped = corpus.card.counts.get("dropped_unknown_ids", 0)
    share = dropped / (dropped + corpus.card.counts["events"])
    level: Level = "warning" if share > 0.05 else "ok"
    message = f"{dropped:,} events ({percent(share)}) of unknown items or users were left out."
    if level == "warning":
        message += " Are the items and users files complete and of the same day as the events?"
    return AuditCheck(
        name="unknown_ids", level=level, message=message, measured={"dropped": dropped}
    )


def check_short_histories(corpus: Corpus) -> AuditCheck:
    """Users with one event have no history to learn from."""
    counts_U = np.diff(corpus.user_offsets_U1)
    active = int((counts_U > 0).sum())
    one = int((counts_U == 1).sum())
    none = int((counts_U == 0).sum())
    share = one / max(1, active)
    level: Level = "warning" if share > 0.5 else "ok"
    message = f"{one:,} of {active:,} users ({percent(share)}) have one event; {none:,} have none."
    if level == "warning":
        message += " One event has no history behind it: widen the time span of the logs, or give "
        message += "more kinds of actions."
    measured = {"users_with_one_event": one, "users_without_events": none}
    return AuditCheck(name="short_histories", level=level, message=message, measured=measured)


def check_unused_items(corpus: Corpus) -> AuditCheck:
    """Items that nobody met can only be known by their text."""
    unused = len(corpus.items) - len(np.unique(corpus.event_item_E))
    share = unused / len(corpus.items)
    level: Level = "warning" if share > 0.5 else "ok"
    message = f"{unused:,} items ({percent(share)}) have no event."
    if level == "warning":
        message += " Full-catalog ranking counts every one of them: leave out what cannot be shown."
    return AuditCheck(
        name="unused_items", level=level, message=message, measured={"items_without_events": unused}
    )


def check_titles(corpus: Corpus) -> AuditCheck:
    """Titles that several items share, look like control tokens, or are very long."""
    titles = corpus.items["title"]
    counts = pc.value_counts(titles.combine_chunks())
    shared = pc.greater(counts.field("counts"), 1)
    n_shared = int(pc.sum(counts.field("counts").filter(shared)).as_py() or 0)
    n_same = _rows_alike(corpus.items.select(["title", *_year_fields(corpus)]))
    control = int(pc.sum(pc.match_substring_regex(titles, r"<[|/]?[^<>\s]{1,40}>")).as_py() or 0)
    lengths = pc.utf8_length(titles)
    n_long = int(pc.sum(pc.greater(lengths, 500)).as_py() or 0)
    measured = {
        "items_with_shared_title": n_shared,
        "items_with_shared_title_and_year": n_same,
        "titles_like_control_tokens": control,
        "titles_over_500_characters": n_long,
    }
    parts = []
    if n_shared:
        examples = counts.field("values").filter(shared).slice(0, 3).to_pylist()
        parts.append(
            f"{n_shared:,} items share their title with another ({', '.join(examples)[:120]}), "
            f"{n_same:,} of them the year too: an answer by title means any of them. Make titles "
            "unique, by year or variant."
        )
    if n_long:
        parts.append(f"{n_long:,} titles exceed 500 characters and will be cut in prompts.")
    if control:
        parts.append(
            f"{control:,} titles look like control tokens; they are plain text in prompts."
        )
    level: Level = "warning" if n_shared or n_long else "ok"
    message = " ".join(parts) or "Every title is unique."
    return AuditCheck(name="titles", level=level, message=message, measured=measured)


def _year_fields(corpus: Corpus) -> list[str]:
    return [field.name for field in corpus.card.item_fields if field.kind == "year"]


def _rows_alike(table: pa.Table) -> int:
    """Rows that are equal to another."""
    sizes = table.group_by(table.column_names).aggregate([([], "count_all")])["count_all"]
    return int(pc.sum(sizes.filter(pc.greater(sizes, 1))).as_py() or 0)


def check_missing(table: pa.Table, fields: list[str], name: str) -> AuditCheck:
    """The share of missing values of each field."""
    shares = {field: table[field].null_count / len(table) for field in fields}
    sparse = {field: share for field, share in shares.items() if share > 0.5}
    if not sparse:
        message = "Every field is known for more than half of the rows."
        if not fields:
            message = "No fields are declared: only ids and titles are known."
        return AuditCheck(name=name, level="ok", message=message, measured=shares)
    listed = ", ".join(f"{field} ({percent(share)})" for field, share in sparse.items())
    message = f"Mostly missing: {listed}. Fill them in, or leave them out of the mapping."
    return AuditCheck(name=name, level="warning", message=message, measured=shares)


def check_event_fields(corpus: Corpus) -> AuditCheck:
    """Fields of events are known for some kinds of events only, but not for none at all."""
    shares = {}
    for field in corpus.card.event_fields:
        missing = sum(
            batch.column(0).null_count for batch in corpus.batches("events", [field.name])
        )
        shares[field.name] = missing / len(corpus.time_E)
    unknown = [name for name, share in shares.items() if share == 1]
    if unknown:
        message = f"Never known: {', '.join(unknown)}. Leave them out."
        return AuditCheck(name="event_fields", level="warning", message=message, measured=shares)
    known = ", ".join(f"{name} {percent(1 - share)}" for name, share in shares.items())
    message = f"Known for events: {known}." if shares else "Events have no fields."
    return AuditCheck(name="event_fields", level="ok", message=message, measured=shares)


def check_values(corpus: Corpus) -> AuditCheck:
    """Values of events: a constant says nothing, and partial ones bias every mean."""
    column = corpus.column("events", "value")
    missing = column.null_count / len(column)
    distinct = len(corpus.card.values)
    measured = {"missing_share": missing, "distinct": distinct}
    if distinct == 0:
        message = "Events carry no value: rating tasks do not apply."
        return AuditCheck(name="values", level="ok", message=message, measured=measured)
    level: Level = "ok"
    message = f"{distinct:,} distinct values, missing for {percent(missing)} of events."
    if distinct == 1:
        level = "warning"
        message = f"Every value is {corpus.card.values[0]}: it says nothing. Leave it out."
    return AuditCheck(name="values", level=level, message=message, measured=measured)


def check_requests(corpus: Corpus) -> AuditCheck:
    """Events of one user at one moment: their order is unknown, they are one request."""
    if not corpus.card.has_times:
        message = "Without times only events with the same request_id belong together."
        return AuditCheck(name="requests", level="ok", message=message, measured={})
    user_E, time_E = corpus.event_user_E, corpus.time_E
    starts_E = np.ones(len(time_E), dtype=bool)
    starts_E[1:] = (user_E[1:] != user_E[:-1]) | (time_E[1:] != time_E[:-1])
    sizes = np.diff(np.append(np.flatnonzero(starts_E), len(time_E)))
    share = float(sizes[sizes > 1].sum() / len(time_E))
    measured = {
        "share_of_events": share,
        "mean_size": float(sizes.mean()),
        "largest": int(sizes.max()),
    }
    message = f"{percent(share)} of events share their moment with another of the same user; the "
    message += f"largest such group has {sizes.max():,}. Order inside a group is unknown: none of "
    message += "its outcomes stands in another's history."
    level: Level = "ok"
    if share > 0.5 and float(sizes.mean()) > 5:
        level = "warning"
        message += " Are times cut to the day or the session? Finer ones leave more to learn."
    return AuditCheck(name="requests", level=level, message=message, measured=measured)


def check_order(corpus: Corpus) -> AuditCheck:
    """Are sequences sorted by item id? Then a file's order was taken for time."""
    if not corpus.card.has_times:
        return _check_given_order(corpus)
    rank_E = _id_ranks(corpus.items["item_id"])[corpus.event_item_E].astype(np.int64)
    same_user = corpus.event_user_E[1:] == corpus.event_user_E[:-1]
    step = np.diff(rank_E)
    user_of_step = corpus.event_user_E[1:]
    n_users = len(corpus.users)
    up_U = np.bincount(user_of_step[same_user & (step > 0)], minlength=n_users)
    down_U = np.bincount(user_of_step[same_user & (step < 0)], minlength=n_users)
    counts_U = np.diff(corpus.user_offsets_U1)
    long_U = counts_U >= 3
    if not long_U.any():
        message = "No user has three events, too few to see an order."
        return AuditCheck(name="order", level="ok", message=message, measured={})
    sorted_U = (up_U == 0) | (down_U == 0)
    share = float(sorted_U[long_U].mean())
    chance = float((2 * np.exp(-gammaln(counts_U[long_U] + 1.0))).mean())
    ties = same_user & (np.diff(corpus.time_E) == 0) & (step != 0)
    tied_up = float((step[ties] > 0).mean()) if ties.any() else 0.5
    measured = {"sorted_share": share, "chance": chance, "sorted_within_a_moment": tied_up}
    message = f"{percent(share)} of sequences are sorted by item id ({percent(chance)} by chance)."
    level: Level = "ok"
    if share > 0.5 and share > 5 * chance:
        level = "error"
        message += " Order is not time here: every next-item number would be fake. Find real times."
    elif share > 2 * chance + 0.05:
        level = "warning"
        message += " More than chance: does the time column say when events happened?"
    elif abs(tied_up - 0.5) > 0.4 and ties.sum() > 100:
        level = "warning"
        message += " Events of one moment stand sorted by item id, so nothing may read that order."
    return AuditCheck(name="order", level=level, message=message, measured=measured)


def _check_given_order(corpus: Corpus) -> AuditCheck:
    """Without times events keep the order they were given in: does that give their values away?"""
    values_E = corpus.column("events", "value").to_numpy()
    same_user = corpus.event_user_E[1:] == corpus.event_user_E[:-1]
    step = np.diff(values_E)
    user_of_step = corpus.event_user_E[1:]
    n_users = len(corpus.users)
    up_U = np.bincount(user_of_step[same_user & (step > 0)], minlength=n_users)
    down_U = np.bincount(user_of_step[same_user & (step < 0)], minlength=n_users)
    telling_U = up_U + down_U >= 2
    sorted_U = (up_U == 0) | (down_U == 0)
    share = float(sorted_U[telling_U].mean()) if telling_U.any() else 0.0
    measured = {"sorted_by_value_share": share}
    if share > 0.5:
        message = f"{percent(share)} of users have their events sorted by value: where an event "
        message += "stands tells its value. Shuffle them before they are written."
        return AuditCheck(name="order", level="warning", message=message, measured=measured)
    message = "Order is not known, and that in which events were given says nothing of values."
    return AuditCheck(name="order", level="ok", message=message, measured=measured)


def _id_ranks(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Position of each item when sorted by id, as numbers where all ids are numbers."""
    if pc.all(pc.match_substring_regex(ids, r"^\d{1,18}$")).as_py():
        ids = ids.cast(pa.int64())
    order = pc.sort_indices(ids).to_numpy()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def check_leakage(corpus: Corpus, split: Split) -> AuditCheck:
    """Is everything learned from older than everything asked about?"""
    time_E = corpus.time_E
    train_E, test_E = split.phase_E == Phase.TRAIN, split.phase_E == Phase.TEST
    if split.card["method"] == "by_user":
        return _check_leakage_by_user(corpus, split)
    if not test_E.any():
        message = "There is no TEST event, so nothing can leak into one."
        return AuditCheck(name="leakage", level="ok", message=message, measured={})
    later = float((time_E[train_E] >= time_E[test_E].min()).mean())
    measured = {"train_events_not_before_test": later}
    if later == 0:
        message = "Every TRAIN event is older than every TEST event."
        return AuditCheck(name="leakage", level="ok", message=message, measured=measured)
    message = f"{percent(later)} of TRAIN events are not older than the first TEST event"
    if split.card["method"] == "leave_last":
        message += ": leave_last lets a model see the future of other users. Use global_time for "
        message += "numbers that you want to believe."
        return AuditCheck(name="leakage", level="warning", message=message, measured=measured)
    message += ": the split is broken, do not evaluate on it."
    return AuditCheck(name="leakage", level="error", message=message, measured=measured)


def _check_leakage_by_user(corpus: Corpus, split: Split) -> AuditCheck:
    cut = np.diff(split.phase_E) != 0
    same_user = corpus.event_user_E[1:] == corpus.event_user_E[:-1]
    users = len(np.unique(corpus.event_user_E[1:][cut & same_user]))
    measured = {"users_in_two_phases": users}
    if users:
        message = (
            f"{users:,} users stand in two phases: the split is broken, do not evaluate on it."
        )
        return AuditCheck(name="leakage", level="error", message=message, measured=measured)
    message = "Every user is in one phase."
    if corpus.card.has_times:
        message += " Events of other users may be newer than what is asked about: global_time is "
        message += "closer to what a product meets."
    return AuditCheck(name="leakage", level="ok", message=message, measured=measured)


def check_empty_histories(corpus: Corpus, split: Split) -> AuditCheck:
    """How many test targets have nothing behind them?"""
    test_E = split.phase_E == Phase.TEST
    if not test_E.any():
        message = "There is no TEST event."
        return AuditCheck(name="empty_histories", level="ok", message=message, measured={})
    first_E = corpus.user_offsets_U1[:-1][corpus.event_user_E]
    is_first_E = corpus.time_E == corpus.time_E[first_E]
    if not corpus.card.has_times:
        is_first_E = np.arange(len(first_E)) == first_E
    empty = float(is_first_E[test_E].mean())
    level: Level = "error" if empty == 1 else "warning" if empty > 0.5 else "ok"
    message = f"{percent(empty)} of TEST events have no older event of their user."
    if is_first_E.all():
        # By nature, as in a log of anonymous visitors: no other split would find a history.
        level = "warning"
        message = (
            "No user has an event behind another: only what needs no history can be asked. If "
            "your users do come back, give ids that stay theirs."
        )
    elif level != "ok":
        message += (
            " Such targets measure the profile and popularity only: take a longer time span, "
        )
        message += "a smaller test_share, or other ids if users change theirs."
    return AuditCheck(
        name="empty_histories", level=level, message=message, measured={"empty_share": empty}
    )


def check_cold(corpus: Corpus, split: Split) -> AuditCheck:
    """How much of the test is about users and items that training never shows?"""
    train_E, test_E = split.phase_E == Phase.TRAIN, split.phase_E == Phase.TEST
    if not test_E.any():
        message = "There is no TEST event."
        return AuditCheck(name="cold", level="ok", message=message, measured={})
    known_U = np.zeros(len(corpus.users), dtype=bool)
    known_N = np.zeros(len(corpus.items), dtype=bool)
    known_U[corpus.event_user_E[train_E]] = True
    known_N[corpus.event_item_E[train_E]] = True
    users = float((~known_U[corpus.event_user_E[test_E]]).mean())
    items = float((~known_N[corpus.event_item_E[test_E]]).mean())
    measured = {"test_events_of_new_users": users, "test_events_of_new_items": items}
    message = f"{percent(users)} of TEST events are of users without a TRAIN event, "
    message += f"{percent(items)} of items without one."
    level: Level = "warning" if max(users, items) > 0.5 else "ok"
    if level == "warning":
        message += (
            " Methods that know only ids cannot answer those: read the cold slices of results."
        )
    return AuditCheck(name="cold", level=level, message=message, measured=measured)
