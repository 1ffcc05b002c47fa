"""Rows of a table with their ids and labels as numbers, so that sorting and comparing move no text.

Shape letters: R rows of the table.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus_checks import codes_of, milliseconds, none_if_empty, plain_text

ROWS_PER_PIECE = 1 << 17


class CodedRows:
    """A table in its final order, given out with its texts again piece by piece.

    Args:
        table: checked, with the columns of its schema.
        ids: column -> all ids that it may hold; other text columns are coded by what they hold.
            None: nothing is coded, for tables that are written as they are.
        long_texts: columns of texts that hardly repeat. They stay where they are, perhaps in a
            memory-mapped file, until a piece needs them, and are tidied then.
    """

    def __init__(
        self,
        table: pa.Table,
        ids: Mapping[str, pa.ChunkedArray] | None = None,
        long_texts: Sequence[str] = (),
    ) -> None:
        self._table = table
        self._long_texts = frozenset(long_texts)
        self._order_R: npt.NDArray[np.int64] | None = None
        self._texts: dict[str, pa.Array] = {}
        self._codes: dict[str, npt.NDArray[np.int32]] = {}
        for field in table.schema if ids is not None else ():
            if not pa.types.is_string(field.type) or field.name in self._long_texts:
                continue
            texts = ids[field.name] if ids and field.name in ids else pc.unique(table[field.name])
            if isinstance(texts, pa.Array):
                texts = pa.chunked_array([texts])
            self._codes[field.name] = codes_of(table[field.name], texts)
            self._texts[field.name] = texts.combine_chunks()

    def __len__(self) -> int:
        return len(self._table)

    @property
    def has_times(self) -> bool:
        """Whether any row has one."""
        return int(self._table["timestamp"].null_count) < len(self)

    def code_R(self, column: str) -> npt.NDArray[np.int32]:
        """Codes in the order in which the rows were given; -1 where an id is missing."""
        return self._codes[column]

    def key_R(self, column: str) -> npt.NDArray[np.generic]:
        """Numbers that are equal where the column's values are."""
        if column in self._codes:
            return self._codes[column]
        if pa.types.is_timestamp(self._table.schema.field(column).type):
            return milliseconds(self._table[column])
        values: npt.NDArray[np.generic] = self._table[column].to_numpy()
        return values

    def labels(self, column: str) -> tuple[str, ...]:
        """The distinct texts of a column that is no id, sorted."""
        return tuple(sorted(self._texts[column].drop_null().to_pylist()))

    def numbers(self, column: str) -> tuple[float, ...]:
        """The distinct numbers of a column, ascending."""
        return tuple(sorted(pc.unique(self._table[column].drop_null()).to_pylist()))

    def sort(self) -> None:
        """Order by user, then time, then as given."""
        time_R = milliseconds(self._table["timestamp"])
        self._order_R = np.lexsort((time_R, self._codes["user_id"]))

    def pieces(self) -> Iterator[pa.Table]:
        """The rows with their texts, a bounded number at a time."""
        schema = self._table.schema
        for start in range(0, len(self), ROWS_PER_PIECE):
            rows = slice(start, start + ROWS_PER_PIECE)
            if self._order_R is None:
                columns = [self._column(name, rows) for name in schema.names]
            else:
                columns = [self._column(name, self._order_R[rows]) for name in schema.names]
            yield pa.Table.from_arrays(columns, schema=schema)

    def _column(self, name: str, rows: slice | npt.NDArray[np.int64]) -> pa.Array | pa.ChunkedArray:
        if name in self._codes:
            codes = self._codes[name][rows]
            return self._texts[name].take(pa.array(codes, mask=codes < 0))
        column = self._table[name]
        if isinstance(rows, slice):
            found = column.slice(rows.start, ROWS_PER_PIECE)
        else:
            found = pa.chunked_array([_taken(column, rows)], column.type)
        return none_if_empty(plain_text(found)) if name in self._long_texts else found


def _taken(column: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.Array:
    """Some rows of a column, chunk by chunk: Arrow would join all chunks first, in memory."""
    if column.num_chunks == 1:
        return column.chunk(0).take(pa.array(rows))
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    chunk_R = np.searchsorted(starts, rows, side="right") - 1
    by_chunk_R = np.argsort(chunk_R, kind="stable")
    chunks, firsts = np.unique(chunk_R[by_chunk_R], return_index=True)
    parts = [
        column.chunk(int(chunk)).take(pa.array(rows[members] - starts[chunk]))
        for chunk, members in zip(chunks, np.split(by_chunk_R, firsts[1:]), strict=True)
    ]
    place_R = np.empty_like(by_chunk_R)
    place_R[by_chunk_R] = np.arange(len(by_chunk_R))
    return pa.concat_arrays(parts).take(pa.array(place_R))
