"""A user's own files as a corpus: columns mapped by name in a small YAML.

`launch/guides/prepare-your-data.md` shows every key of the YAML.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, write_corpus
from data_pipeline.corpus_checks import Origin, codes_of, repeated_events
from data_pipeline.files import refuse_existing
from data_pipeline.sources import convert
from data_pipeline.sources.mapping import (
    EventsConfig,
    ItemsConfig,
    UsersConfig,
    fields_of,
    load_mapping,
)
from data_pipeline.sources.readers import read_table

log = logging.getLogger(__name__)


def import_tables(mapping: Path | str, folder: Path | str, *, overwrite: bool = False) -> Corpus:
    """Read the files that a mapping names and write them as a corpus.

    Args:
        mapping: the YAML; paths in it are relative to its folder.
        folder: where the corpus is to stand.
        overwrite: replace a corpus that stands there.

    Raises:
        DataError: anything wrong with the mapping or the files; nothing is written then.
    """
    mapping, folder = Path(mapping), Path(folder)
    refuse_existing(folder, overwrite)
    config = load_mapping(mapping)
    base = mapping.absolute().parent
    events, event_origin = _read_events(config.events, base)
    if config.items is None:
        items, item_origin = _listed(events, "item_id", event_origin)
        items = items.append_column("title", items["item_id"])
    else:
        items, item_origin = _read_items(config.items, base)
    if config.users is None:
        users, user_origin = _listed(events, "user_id", event_origin)
    else:
        users, user_origin = _read_users(config.users, base)
    events, event_origin, dropped = _drop(
        config.events, events, event_origin, items["item_id"], users["user_id"]
    )
    return write_corpus(
        folder,
        name=config.name,
        items=items,
        users=users,
        events=events,
        item_fields=fields_of(config.items),
        user_fields=fields_of(config.users),
        item_noun=config.item_noun,
        source=config.source,
        licence=config.licence,
        origins={"items": item_origin, "users": user_origin, "events": event_origin},
        dropped=dropped,
        overwrite=overwrite,
    )


def _read_events(config: EventsConfig, base: Path) -> tuple[pa.Table, Origin]:
    names = ("user_id", "item_id", "timestamp", "action", "value", "request_id")
    columns = {
        name: column for name in names if (column := getattr(config.columns, name)) is not None
    }
    table, origin = read_table(config, columns, base)
    events = {
        "user_id": convert.to_ids(table["user_id"], "user_id", origin),
        "item_id": convert.to_ids(table["item_id"], "item_id", origin),
        "timestamp": convert.to_times(table["timestamp"], config.timestamp_unit, origin),
        "action": pa.chunked_array([pa.repeat(config.action, len(table))]),
    }
    if "action" in columns:
        events["action"] = convert.to_text(table["action"], "action", origin)
    if "value" in columns:
        events["value"] = convert.to_numbers(table["value"], "value", origin)
    if "request_id" in columns:
        ids = convert.to_ids(table["request_id"], "request_id", origin)
        events["request_id"] = pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)
    return pa.table(events), origin


def _read_items(config: ItemsConfig, base: Path) -> tuple[pa.Table, Origin]:
    columns = {"item_id": config.columns.item_id}
    if config.columns.title is not None:
        columns["title"] = config.columns.title
    columns |= {name: field.column for name, field in config.fields.items()}
    table, origin = read_table(config, columns, base)
    ids = convert.to_ids(table["item_id"], "item_id", origin)
    titles = ids
    if "title" in columns:
        titles = convert.to_text(table["title"], "title", origin)
        if config.missing_titles == "id":
            blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(titles, "")), "")
            titles = pc.if_else(blank, ids, titles)
    fields = {
        name: convert.to_field(table[name], name, field, origin)
        for name, field in config.fields.items()
    }
    return pa.table({"item_id": ids, "title": titles, **fields}), origin


def _read_users(config: UsersConfig, base: Path) -> tuple[pa.Table, Origin]:
    columns = {"user_id": config.columns.user_id}
    columns |= {name: field.column for name, field in config.fields.items()}
    table, origin = read_table(config, columns, base)
    fields = {
        name: convert.to_field(table[name], name, field, origin)
        for name, field in config.fields.items()
    }
    ids = convert.to_ids(table["user_id"], "user_id", origin)
    return pa.table({"user_id": ids, **fields}), origin


def _listed(events: pa.Table, column: str, origin: Origin) -> tuple[pa.Table, Origin]:
    """The table of the ids that events have, in the order they first appear."""
    ids = pc.unique(events[column])
    codes_E = codes_of(events[column], pa.chunked_array([ids]))
    _, first_E = np.unique(codes_E, return_index=True)
    is_first_E = np.zeros(len(events), dtype=bool)
    is_first_E[first_E] = True
    # A missing id is the event's mistake: the check of events reports it.
    is_first_E &= pc.not_equal(pc.fill_null(events[column], ""), "").to_numpy()
    return events.select([column]).filter(pa.array(is_first_E)), origin.kept(is_first_E)


def _drop(
    config: EventsConfig,
    events: pa.Table,
    origin: Origin,
    item_ids: pa.ChunkedArray,
    user_ids: pa.ChunkedArray,
) -> tuple[pa.Table, Origin, dict[str, int]]:
    """Leave out what the mapping says may be left out, and say how much that was."""
    dropped: dict[str, int] = {}
    user_E, item_E = codes_of(events["user_id"], user_ids), codes_of(events["item_id"], item_ids)
    masks = {}
    if config.unknown_ids == "drop":
        masks["unknown_ids"] = (user_E < 0) | (item_E < 0)
    if config.duplicates == "drop":
        actions = events["action"]
        action_E = codes_of(actions, pa.chunked_array([pc.unique(actions)]))
        time_E = events["timestamp"].cast(pa.int64()).to_numpy()
        masks["duplicates"] = repeated_events(user_E, item_E, time_E, action_E)
    keep_E = np.ones(len(events), dtype=bool)
    for reason, mask_E in masks.items():
        dropped[reason] = int((mask_E & keep_E).sum())
        keep_E &= ~mask_E
        log.info("left out %s of %s events: %s", dropped[reason], len(events), reason)
    if keep_E.all():
        return events, origin, dropped
    return events.filter(pa.array(keep_E)), origin.kept(keep_E), dropped
