"""A user's own files as a corpus: columns mapped by name in a small YAML.

`launch/guides/prepare-your-data.md` shows every key of the YAML.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, write_corpus
from data_pipeline.corpus_checks import Origin, codes_of, milliseconds, repeated_events
from data_pipeline.corpus_schema import ID_COLUMNS
from data_pipeline.files import refuse_existing
from data_pipeline.sources import convert
from data_pipeline.sources.mapping import (
    EventsConfig,
    ImportConfig,
    ItemsConfig,
    UsersConfig,
    fields_of,
    load_mapping,
)
from data_pipeline.sources.optional_tables import Read, drop_rows, read_optional
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
    read = read_optional(config, base)
    if config.events is not None:
        read["events"] = _read_events(config.events, base)
    read["items"] = (
        _titled(_listed(read, "items", ("events", "searches", "judgements", "tags", "links")))
        if config.items is None
        else _read_items(config.items, base)
    )
    read["users"] = (
        _listed(read, "users", ("events", "searches", "tags"))
        if config.users is None
        else _read_users(config.users, base)
    )
    if "queries" not in read and {"judgements", "searches"} & set(read):
        queries, origin = _listed(read, "queries", ("judgements", "searches"))
        read["queries"] = queries.append_column("text", queries["query_id"]), origin
    dropped = _drop(config, read)
    return write_corpus(
        folder,
        name=config.name,
        **{name: table for name, (table, _) in read.items()},
        item_fields=fields_of(config.items),
        user_fields=fields_of(config.users),
        event_fields=fields_of(config.events),
        item_noun=config.item_noun,
        source=config.source,
        licence=config.licence,
        origins={name: origin for name, (_, origin) in read.items()},
        dropped=dropped,
        overwrite=overwrite,
    )


def _read_events(config: EventsConfig, base: Path) -> Read:
    names = ("user_id", "item_id", "timestamp", "action", "value", "request_id")
    columns = {
        name: column for name in names if (column := getattr(config.columns, name)) is not None
    }
    columns |= {name: field.column for name, field in config.fields.items()}
    table, origin = read_table(config, columns, base)
    events = {
        "user_id": convert.to_ids(table["user_id"], "user_id", origin),
        "item_id": convert.to_ids(table["item_id"], "item_id", origin),
        "timestamp": pa.nulls(len(table), pa.timestamp("ms", "UTC")),
        "action": pa.chunked_array([pa.repeat(config.action, len(table))]),
    }
    if "timestamp" in columns:
        unit = config.timestamp_unit
        events["timestamp"] = convert.to_times(table["timestamp"], unit, origin)
    if "action" in columns:
        events["action"] = convert.to_text(table["action"], "action", origin)
    if "value" in columns:
        events["value"] = convert.to_numbers(table["value"], "value", origin)
    if "request_id" in columns:
        ids = convert.to_ids(table["request_id"], "request_id", origin)
        events["request_id"] = pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)
    for name, field in config.fields.items():
        events[name] = convert.to_field(table[name], name, field, origin)
    return pa.table(events), origin


def _read_items(config: ItemsConfig, base: Path) -> Read:
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


def _read_users(config: UsersConfig, base: Path) -> Read:
    columns = {"user_id": config.columns.user_id}
    columns |= {name: field.column for name, field in config.fields.items()}
    table, origin = read_table(config, columns, base)
    fields = {
        name: convert.to_field(table[name], name, field, origin)
        for name, field in config.fields.items()
    }
    ids = convert.to_ids(table["user_id"], "user_id", origin)
    return pa.table({"user_id": ids, **fields}), origin


def _listed(read: Mapping[str, Read], wanted: str, where: Sequence[str]) -> Read:
    """The table of the ids that other tables have, in the order they first appear."""
    column = ID_COLUMNS[wanted]
    found: list[pa.ChunkedArray] = []
    origins: list[Origin] = []
    for name in where:
        table, origin = read.get(name, (None, None))
        if table is None or origin is None:
            continue
        for held in ("other_id", column) if name == "links" else (column,):
            if held in table.column_names:
                found.append(table[held])
                origins.append(origin)
    chunks = [chunk for column_ids in found for chunk in column_ids.chunks]
    ids = pa.chunked_array(chunks, pa.string())
    distinct = pc.unique(ids)
    _, first_R = np.unique(codes_of(ids, pa.chunked_array([distinct])), return_index=True)
    is_first_R = np.zeros(len(ids), dtype=bool)
    is_first_R[first_R] = True
    # A missing id is its row's mistake: the check of that table reports it.
    is_first_R &= pc.not_equal(pc.fill_null(ids, ""), "").to_numpy()
    listed = pa.table({column: ids}).filter(pa.array(is_first_R))
    return listed, _joined(origins, [len(column_ids) for column_ids in found]).kept(is_first_R)


def _joined(origins: Sequence[Origin], lengths: Sequence[int]) -> Origin:
    """Where the rows of several tables come from, one table behind the other."""
    starts: list[int] = []
    total = 0
    for origin, length in zip(origins, lengths, strict=True):
        starts += [start + total for start in origin.starts]
        total += length
    files = tuple(file for origin in origins for file in origin.files)
    return Origin(files=files, starts=tuple(starts), columns=origins[0].columns if origins else {})


def _titled(items: Read) -> Read:
    table, origin = items
    return table.append_column("title", table["item_id"]), origin


def _drop(config: ImportConfig, read: dict[str, Read]) -> dict[str, int]:
    """Leave out what the mapping says may be left out, and say how much that was."""
    ids = {
        name: read[name][0][column] if name in read else pa.chunked_array([], pa.string())
        for name, column in ID_COLUMNS.items()
    }
    dropped: dict[str, int] = {}
    if config.events is not None:
        read["events"], dropped = _drop_events(config.events, *read["events"], ids)
    sections = {
        "judgements": config.judgements,
        "searches": config.searches,
        "tags": config.tags,
        "links": config.links,
    }
    for name, section in sections.items():
        if section is not None:
            read[name], found = drop_rows(name, read[name], section, ids)
            dropped |= found
    return dropped


def _drop_events(
    config: EventsConfig,
    events: pa.Table,
    origin: Origin,
    ids: Mapping[str, pa.ChunkedArray],
) -> tuple[Read, dict[str, int]]:
    dropped: dict[str, int] = {}
    user_E, item_E = (
        codes_of(events["user_id"], ids["users"]),
        codes_of(events["item_id"], ids["items"]),
    )
    masks = {}
    if config.unknown_ids == "drop":
        masks["unknown_ids"] = (user_E < 0) | (item_E < 0)
    if config.duplicates == "drop":
        masks["duplicates"] = _repeated_events(events, user_E, item_E)
    keep_E = np.ones(len(events), dtype=bool)
    for reason, mask_E in masks.items():
        dropped[reason] = int((mask_E & keep_E).sum())
        keep_E &= ~mask_E
        log.info("left out %s of %s events: %s", dropped[reason], len(events), reason)
    if keep_E.all():
        return (events, origin), dropped
    return (events.filter(pa.array(keep_E)), origin.kept(keep_E)), dropped


def _repeated_events(
    events: pa.Table, user_E: npt.NDArray[np.int32], item_E: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    def codes(name: str) -> npt.NDArray[np.int32]:
        return codes_of(events[name], pa.chunked_array([pc.unique(events[name])]))

    when_E = milliseconds(events["timestamp"])
    if events["timestamp"].null_count and "request_id" in events.column_names:
        when_E = codes("request_id").astype(np.int64)  # as the check of events does
    return repeated_events(user_E, item_E, when_E, codes("action"))
