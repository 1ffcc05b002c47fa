"""Columns as a user wrote them -> canonical types, naming the first value that does not fit.

Shape letters: E rows of the column.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus_checks import Origin, check_times, first
from data_pipeline.sources.mapping import FieldConfig, TimestampUnit

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)? ?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
_ZONE = r":.*(Z|[+-]\d{2}(:?\d{2})?)$"
# A number of seconds below 1e11 is before the year 5138; as milliseconds it is before March 1973.
_MAGNITUDES = (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", np.inf))
_UTC_MS = pa.timestamp("ms", "UTC")
_LATEST_MS = 10**15  # beyond any date, well inside int64


def to_ids(column: pa.ChunkedArray, name: str, origin: Origin) -> pa.ChunkedArray:
    """Ids as text, character for character. Null stays null."""
    if _is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    raise origin.error(
        f"ids are of type {column.type}",
        row=0,
        column=name,
        value=column[0].as_py(),
        remedy="write ids as text or whole numbers; a floating point number loses digits",
    )


def to_text(column: pa.ChunkedArray, name: str, origin: Origin) -> pa.ChunkedArray:
    """Free text or one category."""
    simple = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_floating, pa.types.is_null)
    if _is_text(column.type) or any(is_type(column.type) for is_type in simple):
        return column.cast(pa.string())
    raise origin.error(
        f"values are of type {column.type}, not text",
        row=0,
        column=name,
        value=column[0].as_py(),
        remedy="for lists use kind: categories",
    )


def to_lists(
    column: pa.ChunkedArray, separator: str | None, name: str, origin: Origin
) -> pa.ChunkedArray:
    """Several categories: lists as they are, text cut at the separator."""
    type_ = pa.list_(pa.string())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column.cast(type_)
    text = to_text(column, name, origin)
    if separator is None:
        row = first(pc.is_valid(text)) or 0
        raise origin.error(
            "kind: categories needs to know what stands between the values of a text",
            row=row,
            column=name,
            value=text[row].as_py(),
            remedy='set `separator`, for example separator: "|", or use kind: category',
        )
    return pc.split_pattern(text, separator).cast(type_)


def to_numbers(column: pa.ChunkedArray, name: str, origin: Origin) -> pa.ChunkedArray:
    """Numbers as float64; an empty text is null."""
    if pa.types.is_null(column.type):
        return column.cast(pa.float64())
    if not _is_text(column.type):
        try:
            return column.cast(pa.float64(), safe=False)
        except pa.ArrowException as error:
            raise origin.error(
                f"values are of type {column.type}, not numbers",
                row=0,
                column=name,
                value=column[0].as_py(),
                remedy="choose another kind for this field",
            ) from error
    text = _trimmed(column)
    row = first(pc.invert(pc.match_substring_regex(text, _NUMBER)))
    if row is not None:
        raise origin.error(
            "the value is not a number",
            row=row,
            column=name,
            value=column[row].as_py(),
            remedy="write 3.5 with a point; leave it empty where there is no value",
        )
    return text.cast(pa.float64())


def to_field(
    column: pa.ChunkedArray, name: str, config: FieldConfig, origin: Origin
) -> pa.ChunkedArray:
    """A column as its field's kind wants it."""
    if config.kind in ("number", "year"):
        return to_numbers(column, name, origin)
    if config.kind == "categories":
        return to_lists(column, config.separator, name, origin)
    return to_text(column, name, origin)


def to_times(
    column: pa.ChunkedArray,
    unit: TimestampUnit,
    origin: Origin,
    *,
    may_lack: Literal["none", "some"] = "none",
) -> pa.ChunkedArray:
    """Times as UTC milliseconds; what is finer is cut off.

    Args:
        column: dates, times, numbers since 1970, or either as text.
        unit: of numbers; `iso` for text; `auto` goes by the first value and by magnitude.
        origin: for errors.
        may_lack: whether some rows may be without a time.

    Raises:
        DataError: a value that is no time, another unit than the first value's, missing, before
            1970 or in the future.
    """
    if pa.types.is_date(column.type):
        times = column.cast(pa.timestamp("ms")).cast(_UTC_MS)
    elif pa.types.is_timestamp(column.type):
        times = _from_numbers(column.cast(pa.int64()), column, column.type.unit, origin)
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        times = _from_numbers(column, column, unit, origin)
    else:
        text = _trimmed(to_text(column, "timestamp", origin))
        times = _from_text(text, unit, origin)
    check_times(times, origin, column, may_lack=may_lack)
    return times


def _from_text(text: pa.ChunkedArray, unit: TimestampUnit, origin: Origin) -> pa.ChunkedArray:
    numeric = pc.match_substring_regex(text, _NUMBER)
    iso = pc.match_substring_regex(text, _ISO)
    row = first(pc.invert(pc.or_(numeric, iso)))
    if row is not None:
        raise _not_a_time(text, row, origin)
    if unit == "auto":
        start = first(pc.is_valid(text)) or 0
        is_iso = bool(iso[start].as_py())
        row = first(pc.not_equal(iso, is_iso))
        if row is not None:
            kinds = ("numbers", "ISO 8601")
            raise _mixed(text, row, start, kinds[is_iso], kinds[not is_iso], origin)
    else:
        is_iso = unit == "iso"
        row = first(pc.not_equal(iso, is_iso))
        if row is not None:
            raise origin.error(
                f"the value is not a time in unit {unit}",
                row=row,
                column="timestamp",
                value=text[row].as_py(),
                remedy="set the right `timestamp_unit`, or auto",
            )
    if is_iso:
        return _from_iso(text, origin)
    return _from_numbers(_parsed(text), text, unit, origin)


def _parsed(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers exactly: nanoseconds have more digits than a float."""
    try:
        return text.cast(pa.int64())
    except pa.ArrowException:
        return text.cast(pa.float64())


def _from_numbers(
    numbers: pa.ChunkedArray, given: pa.ChunkedArray, unit: TimestampUnit, origin: Origin
) -> pa.ChunkedArray:
    if unit == "iso":
        raise _not_a_time(given, 0, origin)
    missing = pc.is_null(numbers, nan_is_null=True).to_numpy()
    filled_E = pc.fill_null(numbers, 0).to_numpy()
    filled_E = np.where(missing, 0, filled_E)
    known_unit = _detect(filled_E, missing, given, origin) if unit == "auto" else unit
    ms_E = _milliseconds(filled_E, known_unit)
    return pa.chunked_array([pa.array(ms_E, mask=missing)]).cast(_UTC_MS)


def _milliseconds(values_E: npt.NDArray[np.generic], unit: str) -> npt.NDArray[np.int64]:
    if unit == "s":
        limit = _LATEST_MS // 1000
        ms_E = np.rint(np.clip(values_E, -limit, limit) * 1000)
        return np.asarray(ms_E, dtype=np.int64)
    if values_E.dtype.kind == "f":
        values_E = np.rint(np.clip(values_E, -(2.0**62), 2.0**62))
    whole_E = np.asarray(values_E, dtype=np.int64)
    per_ms = {"ms": 1, "us": 1_000, "ns": 1_000_000}[unit]
    return np.asarray(np.clip(whole_E // per_ms, -_LATEST_MS, _LATEST_MS), dtype=np.int64)


def _detect(
    values_E: npt.NDArray[np.generic],
    missing_E: npt.NDArray[np.bool_],
    given: pa.ChunkedArray,
    origin: Origin,
) -> str:
    """The unit that the first value's magnitude speaks for; all others must agree."""
    bounds = [bound for _, bound in _MAGNITUDES]
    unit_E = np.searchsorted(bounds, np.abs(values_E.astype(np.float64)), side="right")
    start = int(np.argmin(missing_E))
    row = first((unit_E != unit_E[start]) & ~missing_E)
    if row is not None:
        names = [name for name, _ in _MAGNITUDES]
        raise _mixed(given, row, start, names[unit_E[start]], names[unit_E[row]], origin)
    return _MAGNITUDES[unit_E[start]][0]


def _from_iso(text: pa.ChunkedArray, origin: Origin) -> pa.ChunkedArray:
    # Milliseconds are kept; Arrow refuses digits beyond them.
    short = pc.replace_substring_regex(text, r"(\.\d{3})\d+", r"\1")
    short = pc.replace_substring_regex(short, r" (Z|[+-]\d{2}(:?\d{2})?)$", r"\1")
    zoned = pc.match_substring_regex(short, _ZONE)
    with_zone = pc.if_else(zoned, short, None)
    without = pc.if_else(zoned, None, short)

    def read(rows: int) -> pa.ChunkedArray:
        local = without[:rows].cast(pa.timestamp("ms")).cast(_UTC_MS)
        return pc.coalesce(with_zone[:rows].cast(_UTC_MS), local)

    try:
        return read(len(text))
    except pa.ArrowException as error:
        raise _not_a_time(text, _first_failing(len(text), read), origin) from error


def _first_failing(n_rows: int, read: Callable[[int], object]) -> int:
    """The first row that Arrow cannot read, by halving: its error names none."""
    good, bad = 0, n_rows
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            read(middle)
            good = middle
        except pa.ArrowException:
            bad = middle
    return bad - 1


def _not_a_time(given: pa.ChunkedArray, row: int, origin: Origin) -> Exception:
    return origin.error(
        "the timestamp cannot be read",
        row=row,
        column="timestamp",
        value=given[row].as_py(),
        remedy="write ISO 8601 such as 2024-05-31T12:00:00Z, or a number since 1970 and "
        "`timestamp_unit` s, ms, us or ns",
    )


def _mixed(
    given: pa.ChunkedArray, row: int, start: int, expected: str, found: str, origin: Origin
) -> Exception:
    _, start_row = origin.locate(start)
    return origin.error(
        f"mixed timestamp units: row {start_row} has {expected} "
        f"({given[start].as_py()!r}), this one has {found}",
        row=row,
        column="timestamp",
        value=given[row].as_py(),
        remedy="write all timestamps in one unit, or set `timestamp_unit` if this is no mistake",
    )


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text without spaces around it; what is empty then is null."""
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
