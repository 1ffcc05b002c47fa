"""Files with one record per line as Python wrote it: {u'id': u'10', 'early_access': False}."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.sources.streams import numbered_lines

_ROWS = 1 << 14


def literal_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row, counted from 1, and record of each line, read as a literal and never as a program.

    Raises:
        DataError: the file is damaged, or a line is no Python literal of a dict.
    """
    for row, line in numbered_lines(path):
        try:
            record = ast.literal_eval(line.decode())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise _wrong(f"no Python literal: {type(error).__name__}", path, row, line) from error
        if not isinstance(record, dict):
            raise _wrong("no record", path, row, line)
        yield row, record


def _wrong(what: str, path: Path, row: int, line: bytes) -> DataError:
    return DataError(
        f"the line is {what}",
        file=path,
        row=row,
        value=line[:200].decode(errors="replace"),
        remedy="is it whole? Otherwise remove it and fetch again",
    )


def in_tables(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows as tables of a bounded size; a key that a row has not is null."""
    remaining = iter(rows)
    while some := list(islice(remaining, _ROWS)):
        columns = [
            _array([row.get(name) for row in some], schema.field(name).type)
            for name in schema.names
        ]
        yield pa.Table.from_arrays(columns, schema=schema)


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:  # half characters, which a literal can spell and no file can hold
        whole = [
            value.encode(errors="replace").decode() if isinstance(value, str) else value
            for value in values
        ]
        return pa.array(whole, type_)
