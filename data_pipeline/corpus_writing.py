"""From tables to checked, ordered Parquet files: the work behind `write_corpus`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline import corpus_checks as checks
from data_pipeline.content_hash import TableHash
from data_pipeline.corpus_checks import Origin
from data_pipeline.corpus_coding import CodedRows
from data_pipeline.corpus_schema import ID_COLUMNS, OPTIONAL_TABLES, Field, TableSpec
from data_pipeline.errors import DataError

_ROWS_PER_GROUP = 1 << 20


Fields = tuple[Sequence[Field], Sequence[Field], Sequence[Field]]
"""Of items, users and events."""


def checked_tables(
    given: Mapping[str, pa.Table],
    schemas: Mapping[str, pa.Schema],
    fields: Fields,
    origins: Mapping[str, Origin],
) -> dict[str, CodedRows]:
    """Check the tables of a corpus, in an order in which each finds what it refers to.

    Args:
        given: the tables by name; "items", "users" and "events" are there, perhaps without rows.
        schemas: of all possible tables.
        fields: of items, users and events.
        origins: where rows came from, for error messages.

    Raises:
        DataError: the first thing found wrong.
    """
    places = {table: Origin(files=(f"table {table}",)) for table in schemas} | dict(origins)
    says_something = {"judgements", "searches", "tags", "links"} & set(given)
    if not says_something or len(given["events"]):
        checks.check_not_empty(given["users"], places["users"], "user")
    if not says_something:
        checks.check_not_empty(given["events"], places["events"], "event")
    items = checked_items(given["items"], schemas["items"], fields[0], places["items"])
    users = checked_users(given["users"], schemas["users"], fields[1], places["users"])
    ids = {"items": items["item_id"], "users": users["user_id"]}
    events = checked_events(given["events"], schemas["events"], fields[2], ids, places)
    checked = {"items": CodedRows(items), "users": CodedRows(users), "events": events}
    queries = given.get("queries", schemas["queries"].empty_table())
    queries = checked_queries(queries, places["queries"])
    ids["queries"] = queries["query_id"]
    if len(queries):
        checked["queries"] = CodedRows(queries)
    for name in ("judgements", "searches", "tags", "links"):
        if name in given:
            checked[name] = checked_table(
                name, given[name], ids, places, has_times=events.has_times
            )
    return checked


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
    schema: pa.Schema,
    fields: Sequence[Field],
    ids: Mapping[str, pa.ChunkedArray],
    origins: Mapping[str, Origin],
) -> CodedRows:
    """Check events; `ids` has those of "items" and "users"."""
    origin = origins["events"]
    # May be null throughout, but not forgotten: without times little can be learned.
    events = _canonical(events, schema, origin, required=("timestamp",))
    checks.check_times(events["timestamp"], origin, may_lack="all")
    events = _replace(events, "action", checks.plain_labels(events["action"]))
    checks.check_actions(events["action"], origin)
    checks.check_numbers(events["value"], "value", origin)
    for field in fields:
        if field.kind == "number":
            checks.check_numbers(events[field.name], field.name, origin)
        elif field.kind == "category":
            tidy = checks.none_if_empty(checks.plain_labels(events[field.name]))
            events = _replace(events, field.name, tidy)
    coded = CodedRows(
        events,
        {"user_id": ids["users"], "item_id": ids["items"]},
        long_texts=[field.name for field in fields if field.kind == "text"],
    )
    for column, table in (("user_id", "users"), ("item_id", "items")):
        checks.check_ids(events[column], column, origin)
        where = ", ".join(origins[table].files)
        checks.check_known(events[column], coded.code_R(column), column, origin, where)
    _check_repeated_events(coded, events, origin)
    coded.sort()
    return coded


def _check_repeated_events(coded: CodedRows, events: pa.Table, origin: Origin) -> None:
    user_E, item_E, action_E = map(coded.code_R, ("user_id", "item_id", "action"))
    if coded.has_times:
        repeated_E = checks.repeated_events(
            user_E, item_E, checks.milliseconds(events["timestamp"]), action_E
        )
        checks.check_repeated(repeated_E, events, origin)
        return
    # What was not done at one known moment may be told apart by its request.
    request_E = coded.code_R("request_id").astype(np.int64)
    repeated_E = checks.repeated_events(user_E, item_E, request_E, action_E)
    key = ("user_id", "item_id", "action", "request_id")
    checks.check_repeated(repeated_E, events, origin, key)


def checked_queries(queries: pa.Table, origin: Origin) -> pa.Table:
    queries = _canonical(queries, OPTIONAL_TABLES["queries"].schema, origin)
    checks.check_ids(queries["query_id"], "query_id", origin)
    checks.check_unique(queries["query_id"], "query_id", origin)
    queries = _replace(queries, "text", checks.plain_text(queries["text"]))
    remedy = "give the query its words, or remove it and what refers to it"
    checks.check_given(queries["text"], "text", origin, remedy)
    return queries


def checked_table(
    name: str,
    table: pa.Table,
    ids: Mapping[str, pa.ChunkedArray],
    origins: Mapping[str, Origin],
    *,
    has_times: bool,
) -> CodedRows:
    """Check judgements, searches, tags or links.

    Args:
        name: the table's.
        table: as it was given.
        ids: of "items", "users" and "queries".
        origins: of all tables.
        has_times: whether the corpus's events have times.
    """
    spec, origin = OPTIONAL_TABLES[name], origins[name]
    table = _canonical(table, spec.schema, origin)
    for field in spec.schema:
        table = _checked_column(table, field, spec, origin)
    if name == "judgements":
        checks.check_splits(table["split"], origin)
    if name == "searches":
        checks.check_search_times(table["timestamp"], origin, has_times=has_times)
    coded = CodedRows(table, {column: ids[named] for column, named in spec.ids.items()})
    for column, named in spec.ids.items():
        where = ", ".join(origins[named].files)
        what = ID_COLUMNS[named].removesuffix("_id")
        codes_R = coded.code_R(column)
        checks.check_known(
            table[column], codes_R, column, origin, where, what=what, row_name=spec.row
        )
    if name == "links":
        checks.check_no_self_links(coded.code_R("item_id"), coded.code_R("other_id"), table, origin)
    repeated_R = checks.repeated_rows([coded.key_R(column) for column in spec.key])
    checks.check_repeated(repeated_R, table, origin, spec.key, spec.row)
    if name == "searches":
        coded.sort()
    return coded


def _checked_column(table: pa.Table, field: pa.Field, spec: TableSpec, origin: Origin) -> pa.Table:
    """The table with one column tidy: there where it must be, numbers finite, times possible."""
    column = field.name
    remedy = f"give every {spec.row} its {column}, or remove the row"
    if pa.types.is_timestamp(field.type):
        checks.check_times(table[column], origin, may_lack="some", row_name=spec.row)
    elif pa.types.is_floating(field.type):
        checks.check_numbers(table[column], column, origin)
        if not field.nullable:
            checks.check_not_null(table[column], column, origin, remedy)
    elif column in spec.labels:
        tidy = checks.plain_labels(table[column])
        if field.nullable:
            tidy = checks.none_if_empty(tidy)
        else:
            checks.check_given(tidy, column, origin, remedy)
        table = _replace(table, column, tidy)
    elif not field.nullable:
        checks.check_ids(table[column], column, origin)
    return table


def _canonical(
    table: pa.Table, schema: pa.Schema, origin: Origin, required: Sequence[str] = ()
) -> pa.Table:
    """The table with exactly the schema's columns and types.

    Columns that may hold nulls may be absent, but for those `required`.
    """
    needed = [field.name for field in schema if not field.nullable or field.name in required]
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
            if field.name in needed:
                raise DataError(
                    f"the required column is missing: there are {', '.join(table.column_names)}",
                    file=", ".join(origin.files),
                    column=field.name,
                    remedy=f"the table needs {', '.join(needed)}",
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
