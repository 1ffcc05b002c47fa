"""Queries, judgements, searches, tags and links from a user's own files."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus_checks import Origin, codes_of, plain_labels, repeated_rows
from data_pipeline.corpus_coding import CodedRows
from data_pipeline.corpus_schema import OPTIONAL_TABLES
from data_pipeline.sources import convert
from data_pipeline.sources.mapping import ImportConfig
from data_pipeline.sources.mapping_files import RowsConfig
from data_pipeline.sources.mapping_tables import (
    LinksConfig,
    OptionalConfig,
    SearchesConfig,
    TagsConfig,
)
from data_pipeline.sources.readers import read_table

log = logging.getLogger(__name__)

Read = tuple[pa.Table, Origin]


def read_optional(config: ImportConfig, base: Path) -> dict[str, Read]:
    """Read every optional table that a mapping has a section for.

    Raises:
        DataError: a file that cannot be read, or a value that does not fit its column.
    """
    sections: dict[str, OptionalConfig | None] = {
        "queries": config.queries,
        "judgements": config.judgements,
        "searches": config.searches,
        "tags": config.tags,
        "links": config.links,
    }
    return {
        name: _read(name, section, base)
        for name, section in sections.items()
        if section is not None
    }


def _read(name: str, section: OptionalConfig, base: Path) -> Read:
    schema = OPTIONAL_TABLES[name].schema
    columns = {
        field.name: column
        for field in schema
        if (column := getattr(section.columns, field.name)) is not None
    }
    given, origin = read_table(section, columns, base)
    table = {
        field.name: _converted(given[field.name], field, section, origin)
        for field in schema
        if field.name in columns
    }
    if isinstance(section, SearchesConfig) and "action" not in table:
        table["action"] = pa.chunked_array([pa.repeat(section.action, len(given))])
    if isinstance(section, LinksConfig) and "relation" not in table:
        table["relation"] = pa.chunked_array([pa.repeat(section.relation, len(given))])
    return pa.table(table), origin


def _converted(
    column: pa.ChunkedArray, field: pa.Field, section: OptionalConfig, origin: Origin
) -> pa.ChunkedArray:
    if pa.types.is_timestamp(field.type):
        assert isinstance(section, SearchesConfig | TagsConfig), "only these have times"
        is_tag = isinstance(section, TagsConfig)
        unit = section.timestamp_unit
        return convert.to_times(column, unit, origin, may_lack="some" if is_tag else "none")
    if pa.types.is_floating(field.type):
        return convert.to_numbers(column, field.name, origin)
    if not field.name.endswith("_id"):
        return convert.to_text(column, field.name, origin)
    ids = convert.to_ids(column, field.name, origin)
    if not field.nullable:
        return ids  # an empty one is a mistake, which the check of ids reports
    return pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)


def drop_rows(
    name: str, read: Read, section: RowsConfig, ids: Mapping[str, pa.ChunkedArray]
) -> tuple[Read, dict[str, int]]:
    """Leave out what a section says may be left out, and say how much that was.

    Args:
        name: judgements, searches, tags or links.
        read: its rows.
        section: what may be left out.
        ids: of "items", "users" and "queries".
    """
    table, origin = read
    spec = OPTIONAL_TABLES[name]
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    if section.unknown_ids == "drop":
        unknown_R = np.zeros(len(table), dtype=bool)
        for column, named in spec.ids.items():
            if column in table.column_names:
                is_unknown = codes_of(table[column], ids[named]) < 0
                unknown_R |= is_unknown & pc.is_valid(table[column]).to_numpy()
        masks["unknown_ids"] = unknown_R
    if section.duplicates == "drop":
        masks["duplicates"] = _repeated(name, table)
    keep_R = np.ones(len(table), dtype=bool)
    dropped: dict[str, int] = {}
    for reason, mask_R in masks.items():
        dropped[f"{name}_{reason}"] = int((mask_R & keep_R).sum())
        keep_R &= ~mask_R
        left_out = dropped[f"{name}_{reason}"]
        log.info("left out %s of %s %s: %s", left_out, len(table), name, reason)
    if keep_R.all():
        return read, dropped
    return (table.filter(pa.array(keep_R)), origin.kept(keep_R)), dropped


def _repeated(name: str, table: pa.Table) -> npt.NDArray[np.bool_]:
    """True for rows that say nothing new: a repeated one, or an item's link to itself."""
    spec = OPTIONAL_TABLES[name]
    key = [column for column in spec.key if column in table.column_names]
    for column in spec.labels:
        if column in key:
            tidy = plain_labels(table[column])
            table = table.set_column(table.schema.get_field_index(column), column, tidy)
    coded = CodedRows(table.select(key), ids={})
    repeated_R = repeated_rows([np.nan_to_num(coded.key_R(column)) for column in key])
    if name == "links":
        other = codes_of(table["other_id"], pa.chunked_array([pc.unique(table["item_id"])]))
        repeated_R |= other == coded.code_R("item_id")
    return repeated_R
