"""From three tables to checked, ordered Parquet files: the work behind `write_corpus`.

Shape letters: E events.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline import corpus_checks as checks
from data_pipeline.content_hash import TableHash
from data_pipeline.corpus_checks import Origin, codes_of
from data_pipeline.corpus_schema import EVENT_SCHEMA, Field
from data_pipeline.errors import DataError

_ROWS_PER_GROUP = 1 << 20


class CodedEvents:
    """Checked events in their final order, ids as numbers: sorted without moving any text."""

    def __init__(
        self, events: pa.Table, item_ids: pa.ChunkedArray, user_ids: pa.ChunkedArray
    ) -> None:
        self._texts = {
            "user_id": user_ids.combine_chunks(),
            "item_id": item_ids.combine_chunks(),
            "action": pc.unique(events["action"]),
            "request_id": pc.unique(events["request_id"]),
        }
        for column, texts in self._texts.items():
            codes = codes_of(events[column], pa.chunked_array([texts]))
            position = events.schema.get_field_index(column)
            events = events.set_column(position, column, pa.array(codes))
        self.events = events

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(sorted(self._texts["action"].to_pylist()))

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(sorted(pc.unique(self.events["value"].drop_null()).to_pylist()))

    def code_E(self, column: str) -> npt.NDArray[np.int32]:
        codes: npt.NDArray[np.int32] = self.events[column].to_numpy()
        return codes

    def sort(self) -> None:
        time_E = self.events["timestamp"].cast(pa.int64()).to_numpy()
        self.events = self.events.take(np.lexsort((time_E, self.code_E("user_id"))))

    def pieces(self) -> Iterator[pa.Table]:
        """The events with their texts again, a bounded number of rows at a time."""
        for start in range(0, len(self.events), _ROWS_PER_GROUP):
            piece = self.events.slice(start, _ROWS_PER_GROUP)
            columns = [
                self._texts[name].take(piece[name]) if name in self._texts else piece[name]
                for name in EVENT_SCHEMA.names
            ]
            yield pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def checked_items(
    items: pa.Table, schema: pa.Schema, fields: Sequence[Field], origin: Origin
) -> pa.Table:
    items = _canonical(items, schema, origin)
    checks.check_not_empty(items, origin, "item")
    checks.check_ids(items["item_id"], "item_id", origin)
    checks.check_unique(items["item_id"], "item_id", origin)
    items = _replace(items, "title", checks.plain_text(items["title"]))
    checks.check_titles(items["title"], origin)
    return _checked_fields(items, fields, origin)


def checked_users(
    users: pa.Table, schema: pa.Schema, fields: Sequence[Field], origin: Origin
) -> pa.Table:
    users = _canonical(users, schema, origin)
    checks.check_not_empty(users, origin, "user")
    checks.check_ids(users["user_id"], "user_id", origin)
    checks.check_unique(users["user_id"], "user_id", origin)
    return _checked_fields(users, fields, origin)


def _checked_fields(table: pa.Table, fields: Sequence[Field], origin: Origin) -> pa.Table:
    for field in fields:
        table = _replace(table, field.name, checks.plain_field(table[field.name], field.kind))
        checks.check_field(table[field.name], field, origin)
    return table


def checked_events(
    events: pa.Table,
    item_ids: pa.ChunkedArray,
    user_ids: pa.ChunkedArray,
    origins: Mapping[str, Origin],
) -> CodedEvents:
    origin = origins["events"]
    events = _canonical(events, EVENT_SCHEMA, origin)
    checks.check_not_empty(events, origin, "event")
    checks.check_times(events["timestamp"], origin)
    events = _replace(events, "action", checks.plain_text(events["action"]))
    checks.check_actions(events["action"], origin)
    checks.check_numbers(events["value"], "value", origin)
    coded = CodedEvents(events, item_ids, user_ids)
    for column, table in (("user_id", "users"), ("item_id", "items")):
        checks.check_ids(events[column], column, origin)
        where = ", ".join(origins[table].files)
        checks.check_known(events[column], coded.code_E(column), column, origin, where)
    repeated_E = checks.repeated_events(
        coded.code_E("user_id"),
        coded.code_E("item_id"),
        events["timestamp"].cast(pa.int64()).to_numpy(),
        coded.code_E("action"),
    )
    checks.check_repeated(repeated_E, events, origin)
    coded.sort()
    return coded


def _canonical(table: pa.Table, schema: pa.Schema, origin: Origin) -> pa.Table:
    """The table with exactly the schema's columns and types; optional ones may be absent."""
    extra = sorted(set(table.column_names) - set(schema.names))
    if extra:
        raise DataError(
            f"columns that no field declares: {', '.join(extra)}",
            file=", ".join(origin.files),
            remedy=f"declare them as fields or leave them out; known: {', '.join(schema.names)}",
        )
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                required = ", ".join(field.name for field in schema if not field.nullable)
                raise DataError(
                    f"the required column is missing: there are {', '.join(table.column_names)}",
                    file=", ".join(origin.files),
                    column=field.name,
                    remedy=f"the table needs {required}",
                )
            columns.append(pa.chunked_array([pa.nulls(len(table), field.type)]))
            continue
        columns.append(_cast(table[field.name], field, origin))
    return pa.table(dict(zip(schema.names, columns, strict=True)))


def _cast(column: pa.ChunkedArray, field: pa.Field, origin: Origin) -> pa.ChunkedArray:
    try:
        # Unsafe only for times: finer than a millisecond is cut off there, never an error.
        return column.cast(field.type, safe=not pa.types.is_timestamp(field.type))
    except pa.ArrowException as error:
        raise DataError(
            f"values of type {column.type} cannot become {field.type}: {error}",
            file=", ".join(origin.files),
            column=origin.column(field.name),
            remedy=f"give the column as {field.type}",
        ) from error


def _replace(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def write_table(path: Path, schema: pa.Schema, pieces: Iterator[pa.Table]) -> str:
    """Write the pieces as one file; returns the hash of their content."""
    hasher = TableHash(schema)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for piece in pieces:
            piece = piece.cast(schema)  # the columns may be null by type, never by content
            hasher.update(piece)
            writer.write_table(piece, row_group_size=_ROWS_PER_GROUP)
    return hasher.hexdigest()
