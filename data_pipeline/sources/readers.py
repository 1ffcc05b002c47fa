"""A user's CSV, TSV, JSONL or Parquet files as an Arrow table, with the origin of every row.

Text formats give text: what is an id, a number or a time is decided by the mapping, never guessed,
so "007" stays "007" and "2024-01-01" may be an id. That is why JSONL goes through the `json`
module: Arrow's reader turns such a text into a time, and its errors name no row.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from data_pipeline.corpus_checks import Origin
from data_pipeline.errors import DataError
from data_pipeline.sources.mapping import FileConfig, nearest

_ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
_BLOCK_BYTES = 1 << 26  # no record may be longer; a title of 100 kB is far from it
_JSON_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """One file to read."""

    system: Any  # fsspec.AbstractFileSystem
    path: str
    shown: str
    format: str

    def open(self) -> IO[bytes]:
        compression = _COMPRESSIONS.get(Path(self.path).suffix.lower())
        file: IO[bytes] = self.system.open(self.path, "rb", compression=compression)
        return file


def read_table(
    config: FileConfig, columns: Mapping[str, str], base: Path
) -> tuple[pa.Table, Origin]:
    """Read the columns that a mapping names.

    Args:
        config: where the rows are and how they are written.
        columns: canonical column name -> the file's column name.
        base: the folder that relative paths start from.

    Returns:
        The table with canonical column names (text for text formats, else the file's types), and
        where its rows came from.

    Raises:
        DataError: no file, an empty one, a missing column, or a record that cannot be read.
    """
    files = _find(config, base)
    tables = [_read(file, config, columns) for file in files]
    starts, total = [], 0
    for table in tables:
        starts.append(total)
        total += len(table)
    origin = Origin(
        files=tuple(file.shown for file in files), starts=tuple(starts), columns=dict(columns)
    )
    if total == 0:
        raise DataError(
            "the file is empty: it has no data row",
            file=", ".join(origin.files),
            remedy="give a file with at least one data row",
        )
    try:
        return pa.concat_tables(tables, promote_options="permissive"), origin
    except pa.ArrowException as error:
        raise DataError(
            f"the files have columns of different types: {error}",
            file=", ".join(origin.files),
            remedy="write them with one schema",
        ) from error


def _find(config: FileConfig, base: Path) -> list[_File]:
    is_url = "://" in config.path
    url = config.path if is_url else str(base / config.path)
    try:
        system, path = fsspec.core.url_to_fs(url)
        paths = [path] if system.isfile(path) else sorted(system.glob(path))
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"the address cannot be opened: {error}",
            file=url,
            remedy="check the address; remote storage needs its fsspec package, such as s3fs",
        ) from error
    paths = [found for found in paths if system.isfile(found)]
    if not paths:
        raise DataError(
            "there is no such file",
            file=url,
            remedy="check `path`; it is relative to the folder of the YAML",
        )
    return [
        _File(
            system=system,
            path=found,
            shown=system.unstrip_protocol(found) if is_url else found,
            format=_format(config, found),
        )
        for found in paths
    ]


def _format(config: FileConfig, path: str) -> str:
    if config.format != "auto":
        return config.format
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _ENDINGS:
        raise DataError(
            "the ending does not say the format",
            file=path,
            remedy="set `format` to csv, tsv, jsonl or parquet",
        )
    return _ENDINGS[suffixes[-1]]


def _read(file: _File, config: FileConfig, columns: Mapping[str, str]) -> pa.Table:
    readers = {"csv": _read_csv, "tsv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
    try:
        return readers[file.format](file, config, columns)
    except DataError:
        raise
    except (OSError, EOFError, pa.ArrowException, UnicodeError, LookupError) as error:
        raise DataError(
            f"the file cannot be read as {file.format}: {error}",
            file=file.shown,
            remedy=f"is it a whole {file.format} file in encoding {config.encoding}?",
        ) from error


def _select(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """The table under canonical names; one column of a file may serve two of them."""
    return pa.table({name: table[column] for name, column in columns.items()})


def _check_columns(file: _File, found: list[str], columns: Mapping[str, str]) -> None:
    for name, column in columns.items():
        if column in found:
            continue
        guess = nearest(column, found)
        hint = f": did you mean '{guess}'?" if guess else ""
        remedy = f"name the right column for `{name}` in the YAML"
        if len(found) == 1 and file.format in ("csv", "tsv"):
            remedy += ", or set `delimiter`: only one column was found"
        raise DataError(
            f"there is no such column{hint} The columns are: {', '.join(found)}",
            file=file.shown,
            column=column,
            remedy=remedy,
        )


# --- CSV and TSV ---------------------------------------------------------------------------------


class _Tail(io.RawIOBase):
    """Passes a file through and remembers its last bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.last = (self.last + data[-8:])[-8:]
        return len(data)


def _read_csv(file: _File, config: FileConfig, columns: Mapping[str, str]) -> pa.Table:
    delimiter = config.delimiter or ("\t" if file.format == "tsv" else ",")
    _check_columns(file, _csv_header(file, config, delimiter), columns)
    invalid: list[Any] = []

    def remember(row: Any) -> str:
        invalid.append(row)
        return "error"

    wanted = list(dict.fromkeys(columns.values()))
    with file.open() as raw:
        tail = _Tail(raw)
        try:
            table = arrow_csv.read_csv(
                io.BufferedReader(tail),
                # One thread: otherwise neither errors nor the handler know their row.
                arrow_csv.ReadOptions(
                    use_threads=False,
                    block_size=_BLOCK_BYTES,
                    # This spelling means no transcoding: faster, and errors name their row.
                    encoding="utf8" if _is_utf8(config) else config.encoding,
                ),
                arrow_csv.ParseOptions(
                    delimiter=delimiter,
                    quote_char=config.quote or False,
                    newlines_in_values=bool(config.quote),
                    invalid_row_handler=remember,
                ),
                arrow_csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
                ),
            )
        except pa.ArrowInvalid as error:
            raise _csv_error(file, error, invalid, wanted) from error
    _check_quotes(file, table, tail.last, config)
    return _select(table, columns)


def _is_utf8(config: FileConfig) -> bool:
    return config.encoding.lower() in ("utf-8", "utf8")


def _csv_header(file: _File, config: FileConfig, delimiter: str) -> list[str]:
    encoding = "utf-8-sig" if _is_utf8(config) else config.encoding
    # Rows behind the header are decoded along with it; what is wrong there gets its own error.
    with (
        file.open() as raw,
        io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="") as text,
    ):
        if config.quote:
            rows = csv.reader(text, delimiter=delimiter, quotechar=config.quote)
        else:
            rows = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        header = next((row for row in rows if row), None)
    if header is None:
        raise DataError(
            "the file is empty", file=file.shown, remedy="its first line must name the columns"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            "two columns have the same name",
            file=file.shown,
            column=twice[0],
            remedy="rename one of them in the first line",
        )
    return header


def _csv_error(file: _File, error: Exception, invalid: list[Any], wanted: list[str]) -> DataError:
    if invalid:
        row = invalid[0]
        return DataError(
            f"the row has {row.actual_columns} values where the first line names "
            f"{row.expected_columns} columns",
            file=file.shown,
            row=None if row.number is None else row.number - 1,  # Arrow counts the first line
            value=row.text,
            remedy="put values with delimiters in quotes; `quote: ''` if quotes are text",
        )
    found = re.search(r"In CSV column #(\d+): Row #(\d+): (.*)", str(error))
    if found is None:
        raise error
    index = int(found[1])
    return DataError(
        f"the value cannot be read: {found[3]}",
        file=file.shown,
        row=int(found[2]) - 1,
        column=wanted[index] if index < len(wanted) else None,
        remedy="is the file UTF-8? Otherwise set `encoding`, for example latin-1",
    )


def _check_quotes(file: _File, table: pa.Table, tail: bytes, config: FileConfig) -> None:
    """A quote that nobody closed makes one value of all that follows, up to the file's end."""
    if not config.quote or len(table) == 0:
        return
    ends_quoted = tail.rstrip(b"\r\n").endswith(config.quote.encode(config.encoding))
    for column in table.column_names:
        value = table[column][len(table) - 1].as_py()
        if (
            "\n" in value
            and not ends_quoted
            and value.rstrip("\r\n").encode().endswith(tail.rstrip(b"\r\n"))
        ):
            raise DataError(
                "a quote is opened and never closed: all rows that follow became one value",
                file=file.shown,
                row=len(table),
                column=column,
                value=value,
                remedy="close the quote; if quotes are plain text, set `quote: ''`",
            )


# --- JSONL ---------------------------------------------------------------------------------------


def _read_jsonl(file: _File, config: FileConfig, columns: Mapping[str, str]) -> pa.Table:
    wanted = list(dict.fromkeys(columns.values()))
    seen: dict[str, None] = {}
    batches: list[pa.Table] = []
    rows: list[dict[str, Any]] = []
    with file.open() as raw:
        for number, record in enumerate(_json_records(file, raw, config.encoding), start=1):
            seen.update(dict.fromkeys(record))
            rows.append({name: _json_text(file, number, name, record.get(name)) for name in wanted})
            if len(rows) == _JSON_ROWS:
                batches.append(_json_table(file, rows, wanted, number))
                rows = []
    batches.append(_json_table(file, rows, wanted, sum(map(len, batches)) + len(rows)))
    if seen:
        _check_columns(file, list(seen), columns)
    return _select(pa.concat_tables(batches, promote_options="permissive"), columns)


def _json_records(file: _File, raw: IO[bytes], encoding: str) -> Iterator[dict[str, Any]]:
    number = 0
    # Numbers keep the digits they were written with: an id of 20 digits is not a float.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
    for line in raw:
        if not line.strip():
            continue
        number += 1
        try:
            record = decoder.decode(line.decode(encoding).strip().removeprefix("\ufeff"))
        except ValueError as error:
            raise DataError(
                f"the line is not JSON: {error}",
                file=file.shown,
                row=number,
                value=line[:200].decode(errors="replace").strip(),
                remedy="every line must be one JSON object",
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                "the line is not a JSON object",
                file=file.shown,
                row=number,
                value=record,
                remedy='every line must look like {"column": value, ...}',
            )
        yield record


def _json_text(file: _File, row: int, column: str, value: Any) -> Any:
    """A JSON value as text, a list of texts, or None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return [_json_text(file, row, column, part) for part in value]
    raise DataError(
        "the value is neither a text, a number nor a list of those",
        file=file.shown,
        row=row,
        column=column,
        value=value,
        remedy="give nested objects as columns of their own",
    )


def _json_table(file: _File, rows: list[dict[str, Any]], wanted: list[str], end: int) -> pa.Table:
    columns = {}
    for name in wanted:
        values = [row[name] for row in rows]
        kinds = [isinstance(value, list) for value in values if value is not None]
        if any(kinds) and not all(kinds):
            odd = next(
                i for i, v in enumerate(values) if v is not None and isinstance(v, list) != kinds[0]
            )
            raise DataError(
                "the column holds lists in some rows and single values in others",
                file=file.shown,
                row=end - len(rows) + odd + 1,
                column=name,
                value=values[odd],
                remedy="write lists in every row, or in none",
            )
        if not kinds:
            columns[name] = pa.nulls(len(values))
            continue
        columns[name] = pa.array(values, pa.list_(pa.string()) if kinds[0] else pa.string())
    return pa.table(columns)


# --- Parquet -------------------------------------------------------------------------------------


def _read_parquet(file: _File, config: FileConfig, columns: Mapping[str, str]) -> pa.Table:
    with file.open() as raw, pq.ParquetFile(raw) as parquet:
        _check_columns(file, parquet.schema_arrow.names, columns)
        return _select(parquet.read(columns=list(dict.fromkeys(columns.values()))), columns)
