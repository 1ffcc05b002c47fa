"""What every corpus must fulfil, checked column by column with the place of the first offence.

Shape letters: E events, N rows of the table at hand.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus_schema import PUBLISHED_SPLITS, UNKNOWN_TIME, Field
from data_pipeline.errors import DataError

MS_PER_DAY = 86_400_000
# Line and paragraph separators break a prompt's line like "\n" does. Format characters (Cf) stay:
# the joiners of emoji are among them.
_BREAKS = r"\p{Cc}\x{2028}\x{2029}"
_BREAK_RUN = f"[ {_BREAKS}]*[{_BREAKS}][ {_BREAKS}]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a table's rows came from, so that an error can name the user's file, row and column."""

    files: tuple[str, ...]
    """The files whose rows follow one another in the table."""
    starts: tuple[int, ...] = (0,)
    """First row, in the files read together, of each file."""
    columns: Mapping[str, str] = dataclass_field(default_factory=dict)
    """Canonical column name -> the file's column name."""
    rows: npt.NDArray[np.int64] | None = None
    """Row, in the files read together, of each row of the table; None when none was left out."""

    def locate(self, row: int) -> tuple[str, int]:
        """File and 1-based data row of the table's 0-based row."""
        source_row = row if self.rows is None else int(self.rows[row])
        index = int(np.searchsorted(self.starts, source_row, side="right")) - 1
        return self.files[index], source_row - self.starts[index] + 1

    def column(self, name: str) -> str:
        return self.columns.get(name, name)

    def error(
        self, message: str, *, row: int, column: str, value: object, remedy: str
    ) -> DataError:
        """A DataError at a row of the table."""
        file, file_row = self.locate(row)
        return DataError(
            message,
            file=file,
            row=file_row,
            column=self.column(column),
            value=value,
            remedy=remedy,
        )

    def kept(self, keep_N: npt.NDArray[np.bool_]) -> "Origin":
        """The origin of the table's rows that are kept."""
        rows = np.arange(len(keep_N)) if self.rows is None else self.rows
        return Origin(files=self.files, starts=self.starts, columns=self.columns, rows=rows[keep_N])


def first(mask: pa.ChunkedArray | pa.Array | npt.NDArray[np.bool_]) -> int | None:
    """Index of the first true value; nulls count as false."""
    values = mask
    if not isinstance(values, np.ndarray):
        values = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    index = int(np.argmax(values)) if len(values) else 0
    return index if len(values) and values[index] else None


def codes_of(values: pa.ChunkedArray, ids: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """Position of each value in `ids`, -1 where it is not among them."""
    found = pc.index_in(values, value_set=ids.combine_chunks())
    codes: npt.NDArray[np.int32] = pc.fill_null(found, -1).to_numpy()
    return codes


def plain_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Runs of line breaks, tabs and control characters become one space; the ends are trimmed.

    All other characters stay as they are, emoji and look-alikes of control tokens included.
    """
    return pc.utf8_trim(pc.replace_substring_regex(values, _BREAK_RUN, " "), " ")


def plain_labels(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """`plain_text` for a column of few distinct values, each of which is tidied once."""
    distinct = pc.unique(values)
    tidy = plain_text(pa.chunked_array([distinct])).combine_chunks()
    chunks = [tidy.take(pc.index_in(chunk, value_set=distinct)) for chunk in values.chunks]
    return pa.chunked_array(chunks, pa.string())


def none_if_empty(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def plain_field(values: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """A field's column with tidy text; an empty text is none, a repeated category stands once."""
    if kind in ("number", "year"):
        return values
    if kind != "categories":
        return none_if_empty(plain_text(values))
    return pa.chunked_array([_plain_lists(chunk) for chunk in values.chunks], values.type)


def _plain_lists(lists: pa.Array) -> pa.Array:
    texts = plain_text(pa.chunked_array([lists.flatten()])).to_pylist()
    rows: list[list[str] | None] = []
    position = 0
    for length in pc.list_value_length(lists).to_pylist():
        if length is None:
            rows.append(None)
            continue
        row = texts[position : position + length]
        rows.append(list(dict.fromkeys(text for text in row if text)))
        position += length
    return pa.array(rows, lists.type)


def check_not_empty(table: pa.Table, origin: Origin, what: str) -> None:
    if len(table) == 0:
        raise DataError(
            f"there is not one {what}",
            file=", ".join(origin.files),
            remedy=f"give a file with at least one data row; a corpus needs at least one {what}",
        )


def check_ids(ids: pa.ChunkedArray, column: str, origin: Origin) -> None:
    """An id is neither missing nor empty."""
    row = first(pc.or_(pc.is_null(ids), pc.equal(pc.fill_null(ids, ""), "")))
    if row is not None:
        raise origin.error(
            "the id is missing",
            row=row,
            column=column,
            value=ids[row].as_py(),
            remedy="every row needs an id: fill it in or remove the row",
        )


def check_unique(ids: pa.ChunkedArray, column: str, origin: Origin) -> None:
    """No id stands twice."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    codes = codes_of(ids, pa.chunked_array([pc.unique(ids)]))
    _, first_row_of_code = np.unique(codes, return_index=True)
    row = int(np.argmax(first_row_of_code[codes] != np.arange(len(codes))))
    before, before_row = origin.locate(int(first_row_of_code[codes[row]]))
    raise origin.error(
        f"the id stands already in row {before_row} of {before}",
        row=row,
        column=column,
        value=ids[row].as_py(),
        remedy="ids must be unique: remove one of the two rows or give it another id",
    )


def check_not_null(values: pa.ChunkedArray, column: str, origin: Origin, remedy: str) -> None:
    row = first(pc.is_null(values))
    if row is not None:
        raise origin.error(
            f"the {column} is missing", row=row, column=column, value=None, remedy=remedy
        )


def check_given(texts: pa.ChunkedArray, column: str, origin: Origin, remedy: str) -> None:
    """A text is neither missing nor empty."""
    row = first(pc.or_(pc.is_null(texts), pc.equal(pc.fill_null(texts, ""), "")))
    if row is not None:
        raise origin.error(
            f"the {column} is missing",
            row=row,
            column=column,
            value=texts[row].as_py(),
            remedy=remedy,
        )


def check_titles(titles: pa.ChunkedArray, origin: Origin) -> None:
    remedy = "give the item a title, or set `missing_titles: id` to use its id"
    check_given(titles, "title", origin, remedy)


def check_numbers(values: pa.ChunkedArray, column: str, origin: Origin) -> None:
    """A number is finite; a missing one is null, never NaN."""
    row = first(pc.invert(pc.is_finite(values)))
    if row is not None:
        raise origin.error(
            "the value is not a finite number",
            row=row,
            column=column,
            value=values[row].as_py(),
            remedy="leave it empty (null) where there is no value",
        )


def check_field(values: pa.ChunkedArray, field: Field, origin: Origin) -> None:
    if field.kind not in ("number", "year"):
        return
    check_numbers(values, field.name, origin)
    if field.kind == "number":
        return
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less_equal(values, 9999))
    row = first(pc.invert(pc.and_(whole, pc.greater_equal(values, 1))))
    if row is not None:
        raise origin.error(
            "the value is not a year",
            row=row,
            column=field.name,
            value=values[row].as_py(),
            remedy="a year is a whole number from 1 to 9999; for anything else use kind: number",
        )


def check_actions(actions: pa.ChunkedArray, origin: Origin) -> None:
    remedy = (
        "say what the user did, or leave `action` out of the columns: all events then get the one "
        "action of the mapping"
    )
    check_given(actions, "action", origin, remedy)


def check_splits(splits: pa.ChunkedArray, origin: Origin) -> None:
    """A published split is one of those that phases have names for."""
    known = pc.is_in(splits, value_set=pa.array(PUBLISHED_SPLITS))
    row = first(pc.and_(pc.is_valid(splits), pc.invert(known)))
    if row is not None:
        raise origin.error(
            f"the published split is none of {', '.join(PUBLISHED_SPLITS)}",
            row=row,
            column="split",
            value=splits[row].as_py(),
            remedy="rename it; leave it empty where no split was published",
        )


def check_times(
    times: pa.ChunkedArray,
    origin: Origin,
    given: pa.ChunkedArray | None = None,
    *,
    may_lack: Literal["none", "all", "some"] = "none",
    row_name: str = "event",
) -> None:
    """Every time lies between 1970 and tomorrow; `given` is what the user's file says.

    `may_lack` says how many rows may be without a time. It is "all" for events: either every event
    has one or none has, as an order known in part is none.
    """
    given = times if given is None else given
    if may_lack == "none" or (may_lack == "all" and times.null_count < len(times)):
        row = first(pc.is_null(times))
        if row is not None:
            raise origin.error(
                "the timestamp is missing",
                row=row,
                column="timestamp",
                value=given[row].as_py(),
                remedy="order is what a model learns from: fill the time in or remove the row; "
                "leave out all times if none is known",
            )
    ms_R = milliseconds(times)
    tomorrow = time.time() * 1000 + MS_PER_DAY
    row = first(((ms_R < 0) & pc.is_valid(times).to_numpy()) | (ms_R > tomorrow))
    if row is not None:
        when = "before 1970" if ms_R[row] < 0 else "in the future"
        raise origin.error(
            f"the {row_name} is {when}: {np.datetime64(int(ms_R[row]), 'ms')}",
            row=row,
            column="timestamp",
            value=given[row].as_py(),
            remedy="is `timestamp_unit` right (s, ms, us, ns, iso)? Otherwise remove the row",
        )


def check_search_times(times: pa.ChunkedArray, origin: Origin, *, has_times: bool) -> None:
    """The log of searches is cut at the moments at which the log of events is."""
    row = first(pc.is_null(times)) if has_times or times.null_count < len(times) else None
    if row is not None:
        raise origin.error(
            "the timestamp of a search is missing",
            row=row,
            column="timestamp",
            value=None,
            remedy="fill it in or remove the row; searches go without times only where no search "
            "and no event has one",
        )


def milliseconds(times: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Times as milliseconds since 1970, `UNKNOWN_TIME` where there is none."""
    ms_R: npt.NDArray[np.int64] = pc.fill_null(times.cast(pa.int64()), UNKNOWN_TIME).to_numpy()
    return ms_R


def check_known(
    ids: pa.ChunkedArray,
    codes_R: npt.NDArray[np.int32],
    column: str,
    origin: Origin,
    where: str,
    *,
    what: str | None = None,
    row_name: str = "event",
) -> None:
    """What every row refers to stands in its table; a null refers to nothing."""
    unknown_R = codes_R < 0
    if ids.null_count:
        unknown_R &= pc.is_valid(ids).to_numpy()
    row = first(unknown_R)
    if row is not None:
        what = what or column.removesuffix("_id")
        raise origin.error(
            f"the {row_name} refers to an unknown {what}, one that {where} does not list "
            f"({int(unknown_R.sum()):,} such {plural(row_name)})",
            row=row,
            column=column,
            value=ids[row].as_py(),
            remedy=f"add the {what} there, or set `unknown_ids: drop` to leave such "
            f"{plural(row_name)} out",
        )


def check_no_self_links(
    item_R: npt.NDArray[np.int32],
    other_R: npt.NDArray[np.int32],
    links: pa.Table,
    origin: Origin,
) -> None:
    row = first(item_R == other_R)
    if row is not None:
        raise origin.error(
            f"the item is linked to itself ({int((item_R == other_R).sum()):,} such links)",
            row=row,
            column="other_id",
            value=links["other_id"][row].as_py(),
            remedy="remove the row: that an item is like itself says nothing",
        )


def plural(noun: str) -> str:
    if noun == "query":
        return "queries"
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def repeated_events(
    user_E: npt.NDArray[np.int32],
    item_E: npt.NDArray[np.int32],
    time_E: npt.NDArray[np.int64],
    action_E: npt.NDArray[np.int32],
) -> npt.NDArray[np.bool_]:
    """True where an earlier row has the same user, item, time and action."""
    repeated_E = np.zeros(len(user_E), dtype=bool)
    if len(user_E) == 0:
        return repeated_E
    # One number for who, what and how, -1 (unknown) included: two sorts are faster than four.
    who_what_E = (user_E + np.int64(1)) * (int(item_E.max()) + 2) + item_E + 1
    who_what_E = who_what_E * (int(action_E.max()) + 2) + action_E + 1
    order = np.lexsort((time_E, who_what_E))  # stable: equal events stay in row order
    key_E, moment_E = who_what_E[order], time_E[order]
    same = (key_E[1:] == key_E[:-1]) & (moment_E[1:] == moment_E[:-1])
    repeated_E[order[1:][same]] = True
    return repeated_E


def repeated_rows(columns: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.bool_]:
    """True where an earlier row has the same in all of some columns of numbers without NaN."""
    repeated_R = np.zeros(len(columns[0]), dtype=bool)
    if len(repeated_R) == 0:
        return repeated_R
    order = np.lexsort(columns)  # stable: rows alike stay in row order
    same = np.ones(len(order) - 1, dtype=bool)
    for column in columns:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    repeated_R[order[1:][same]] = True
    return repeated_R


def check_repeated(
    repeated_R: npt.NDArray[np.bool_],
    table: pa.Table,
    origin: Origin,
    key: Sequence[str] = ("user_id", "item_id", "timestamp", "action"),
    row_name: str = "event",
) -> None:
    """No row stands twice."""
    row = first(repeated_R)
    if row is None:
        return
    names = [name for name in key if table[name].null_count < len(table)]
    twin = np.ones(row, dtype=bool)
    for name in names:
        here = table[name][row]
        alike = (
            pc.equal(table[name][:row], here) if here.is_valid else pc.is_null(table[name][:row])
        )
        twin &= pc.fill_null(alike, False).to_numpy(zero_copy_only=False)
    before, before_row = origin.locate(int(np.argmax(twin)))
    same = [{"timestamp": "time"}.get(name, name.removesuffix("_id")) for name in names]
    by_time = ", or tell them apart by time" if "timestamp" in names else ""
    raise origin.error(
        f"the same {', '.join(same[:-1])} and {same[-1]} stand already in row {before_row} of "
        f"{before} ({int(repeated_R.sum()):,} such {plural(row_name)})",
        row=row,
        column=names[0],
        value=", ".join(str(table[name][row].as_py()) for name in names),
        remedy=f"set `duplicates: drop` to keep the first of each{by_time}",
    )
