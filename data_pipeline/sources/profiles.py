"""What is known of people, row by row beside the ids that a corpus needs."""

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus_checks import codes_of


def described(ids: pa.Array, table: pa.Table, key: str) -> pa.Table:
    """A row for each id: the table's first with that id, or nulls.

    Args:
        ids: distinct, in the order that is wanted.
        table: rows that describe some of them, and perhaps others.
        key: its column of ids.
    """
    codes = codes_of(pa.chunked_array([ids]), table[key])
    rows = pa.array(codes, mask=codes < 0)
    columns = {name: table[name].take(rows) for name in table.column_names if name != key}
    return pa.table({key: ids, **columns})


def known(column: pa.ChunkedArray, *unknown: str) -> pa.ChunkedArray:
    """A text column with null for the empty text and for what else says that nobody knows."""
    is_unknown = pc.is_in(column, value_set=pa.array(["", *unknown]))
    return pc.if_else(is_unknown, pa.scalar(None, pa.string()), column)


def yes_no(flags: pa.ChunkedArray) -> pa.ChunkedArray:
    """Booleans as "yes" and "no"; null stays null."""
    return pc.if_else(flags, "yes", "no")


def counted(column: pa.ChunkedArray, name: str, key: str) -> pa.Table:
    """How often each id of a column stands there: columns `key` and `name`."""
    counts = pc.value_counts(column)
    counts = counts.combine_chunks() if isinstance(counts, pa.ChunkedArray) else counts
    numbers = counts.field("counts").cast(pa.float64())
    return pa.table({key: counts.field("values"), name: numbers})
