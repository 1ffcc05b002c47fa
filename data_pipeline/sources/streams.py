"""Big text files as Arrow tables, one block at a time, with the row of what cannot be read.

A file of fifty million reviews is never in memory: a block is parsed by Arrow, used and forgotten.
Only a block that Arrow refuses is read line by line, for the place of the mistake, or because
Arrow is too strict: half of an emoji as an escape is legal JSON but no text.
"""

import contextlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from data_pipeline.corpus_checks import Origin
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import open_binary

_BLOCK_BYTES = 1 << 25
_WHOLE = "is it whole? Otherwise remove it and fetch again"


def csv_tables(
    path: Path,
    columns: Mapping[str, str],
    *,
    header: tuple[str, ...] | None = None,
    delimiter: str = ",",
    quote: str = '"',
) -> Iterator[tuple[pa.Table, Origin]]:
    """The columns of a CSV file as text, block by block.

    Args:
        path: the file; .gz, .bz2 and .xz are unpacked on the way.
        columns: canonical column name -> the file's column name.
        header: the file's columns where its first line does not name them.
        delimiter: between values.
        quote: around values; empty where quotes are plain text.

    Yields:
        A table with the canonical names, and where its rows came from.

    Raises:
        DataError: the file is damaged, lacks a column, or a row has too few or too many values.
    """
    invalid: list[Any] = []

    def remember(row: Any) -> str:
        invalid.append(row)
        return "error"

    offset = 0
    wanted = list(columns.values())
    with _explained(path, invalid, n_headers=int(header is None)), open_binary(path) as file:
        reader = arrow_csv.open_csv(
            file,
            # One thread: otherwise the handler does not know the row.
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=None if header is None else list(header),
            ),
            arrow_csv.ParseOptions(
                delimiter=delimiter,
                quote_char=quote or False,
                newlines_in_values=bool(quote),
                invalid_row_handler=remember,
            ),
            arrow_csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
            ),
        )
        for batch in reader:
            origin = Origin(files=(str(path),), starts=(-offset,), columns=dict(columns))
            yield pa.Table.from_batches([batch]).rename_columns(list(columns)), origin
            offset += len(batch)


@contextmanager
def _explained(path: Path, invalid: list[Any], n_headers: int) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        if invalid:
            row = invalid[0]
            raise DataError(
                f"the row has {row.actual_columns} values where {row.expected_columns} are "
                "expected",
                file=path,
                row=None if row.number is None else row.number - n_headers,
                value=row.text,
                remedy=_WHOLE,
            ) from error
        raise _unreadable(path, error) from error
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"the file cannot be read: {error}", file=path, remedy=_WHOLE)


def json_tables(path: Path, columns: Mapping[str, pa.Field]) -> Iterator[tuple[pa.Table, Origin]]:
    """Some keys of a file with one JSON object per line, block by block.

    Args:
        path: the file; .gz, .bz2 and .xz are unpacked on the way.
        columns: canonical column name -> key and type in the file; of a line without the key the
            value is null.

    Yields:
        A table with the canonical names, and where its rows came from.

    Raises:
        DataError: the file is damaged, a line is no JSON object, or a value has another type.
    """
    schema = pa.schema(list(columns.values()))
    keys = {name: field.name for name, field in columns.items()}
    offset = 0
    for block in _blocks(path):
        origin = Origin(files=(str(path),), starts=(-offset,), columns=keys)
        table = _parsed(block, schema, origin)
        yield table.rename_columns(list(columns)), origin
        offset += len(table)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, counted from 1.

    Raises:
        DataError: the file is damaged.
    """
    number = 0
    for block in _blocks(path):
        for line in block.splitlines():
            if line.strip():
                number += 1
                yield number, line


def _blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces that end where a line does and hold more than blanks."""
    rest = b""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_binary(path))
            while chunk := file.read(_BLOCK_BYTES):
                end = chunk.rfind(b"\n") + 1
                block, rest = (rest + chunk[:end], chunk[end:]) if end else (b"", rest + chunk)
                if block.strip():
                    yield block
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(path, error) from error
    if rest.strip():
        yield rest


def _parsed(block: bytes, schema: pa.Schema, origin: Origin) -> pa.Table:
    try:
        table = arrow_json.read_json(
            pa.BufferReader(block),
            arrow_json.ReadOptions(block_size=len(block) + 1),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        for column in table.columns:  # text that is no UTF-8 would fail much later
            if pa.types.is_string(column.type):
                column.validate(full=True)
        return table
    except (pa.ArrowInvalid, UnicodeError):
        return _parsed_by_line(block, schema, origin)


def _parsed_by_line(block: bytes, schema: pa.Schema, origin: Origin) -> pa.Table:
    lines = [line for line in block.split(b"\n") if line.strip()]
    records = [_record(line, row, origin) for row, line in enumerate(lines)]
    arrays = []
    for field in schema:
        values = [_whole_text(record.get(field.name)) for record in records]
        arrays.append(_array(values, field, origin))
    return pa.Table.from_arrays(arrays, schema=schema)


def _record(line: bytes, row: int, origin: Origin) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _wrong_line(f"the line is not JSON: {error}", line, row, origin) from error
    if not isinstance(record, dict):
        raise _wrong_line("the line is not a JSON object", line, row, origin)
    return record


def _wrong_line(message: str, line: bytes, row: int, origin: Origin) -> DataError:
    file, file_row = origin.locate(row)
    shown = line[:200].decode(errors="replace")
    return DataError(message, file=file, row=file_row, value=shown, remedy=_WHOLE)


def _whole_text(value: Any) -> Any:
    """A text without half characters, which no file can hold; other values as they are."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _array(values: list[Any], field: pa.Field, origin: Origin) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    for row, value in enumerate(values):
        try:
            pa.array([value], field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            file, file_row = origin.locate(row)
            raise DataError(
                f"the value is not of type {field.type}",
                file=file,
                row=file_row,
                column=field.name,
                value=value,
                remedy=_WHOLE,
            ) from error
    raise AssertionError("a column of good values is good")


def selected_records(
    path: Path,
    key: re.Pattern[bytes],
    wanted: pa.Array,
    parse: Callable[[str], Any],
    *,
    lines: int = 20_000,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file with one per line whose id is wanted; the others are not parsed.

    For files whose values change their type from line to line, which Arrow cannot read.

    Args:
        path: the file; .gz, .bz2 and .xz are unpacked on the way.
        key: finds the id in a line, in its first group; a line without is parsed.
        wanted: the ids.
        parse: a line's text to a dict, raising ValueError or SyntaxError where it is none.
        lines: how many to look at together.

    Yields:
        Row in the file, from 1, and record.

    Raises:
        DataError: the file is damaged, or a line cannot be parsed.
    """
    batch: list[tuple[int, bytes]] = []
    for numbered in numbered_lines(path):
        batch.append(numbered)
        if len(batch) == lines:
            yield from _selected(path, batch, key, wanted, parse)
            batch = []
    yield from _selected(path, batch, key, wanted, parse)


def _selected(
    path: Path,
    batch: list[tuple[int, bytes]],
    key: re.Pattern[bytes],
    wanted: pa.Array,
    parse: Callable[[str], Any],
) -> Iterator[tuple[int, dict[str, Any]]]:
    found = [key.search(line) for _, line in batch]
    ids = pa.array([None if m is None else m[1].decode(errors="replace") for m in found])
    is_wanted = pc.is_in(ids.cast(pa.string()), value_set=wanted).to_pylist()
    for (row, line), match, keep in zip(batch, found, is_wanted, strict=True):
        if match is not None and not keep:
            continue
        try:
            record = parse(line.decode())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise DataError(
                f"the line cannot be parsed: {type(error).__name__}: {error}",
                file=path,
                row=row,
                value=line[:200].decode(errors="replace"),
                remedy=_WHOLE,
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                "the line is not a record", file=path, row=row, value=record, remedy=_WHOLE
            )
        yield row, record
