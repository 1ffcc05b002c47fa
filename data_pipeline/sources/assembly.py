"""From a dataset's rows to the tables of a corpus: what many sources have to do."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus_checks import codes_of, repeated_events
from data_pipeline.corpus_schema import Field
from data_pipeline.errors import DataError

log = logging.getLogger(__name__)


def check_counts(
    dataset: str, found: Mapping[str, int], published: Mapping[str, int], place: Path
) -> None:
    """Refuse files whose numbers of rows are not the published ones.

    Args:
        dataset: what it is called in the message.
        found: what was counted -> how many there are.
        published: the same for what is known exactly; anything else is not compared.
        place: the file or folder with the rows.

    Raises:
        DataError: a number differs.
    """
    for what, expected in published.items():
        if found[what] != expected:
            raise DataError(
                f"{dataset} has {expected:,} {what}; these files have {found[what]:,}",
                file=place,
                remedy="are the files whole and of this variant? Otherwise remove them and fetch "
                "again",
            )


def listed(column: pa.ChunkedArray) -> pa.Array:
    """The distinct ids of a column, in the order in which they first appear."""
    ids = pc.unique(column)
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def repeated(events: pa.Table) -> npt.NDArray[np.bool_]:
    """True where an earlier row has the same user, item, time and action."""

    def codes(name: str) -> npt.NDArray[np.int32]:
        return codes_of(events[name], pa.chunked_array([listed(events[name])]))

    time_E = events["timestamp"].cast(pa.int64()).to_numpy()
    return repeated_events(codes("user_id"), codes("item_id"), time_E, codes("action"))


def first_of_each(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    """True for the first of the rows that are alike in one or two columns."""
    assert len(columns) <= 2, "the keys of more columns do not fit into 64 bits"
    key_N = np.zeros(len(table), np.int64)
    for column in columns:
        texts = listed(table[column])
        key_N = key_N * (len(texts) + 1) + codes_of(table[column], pa.chunked_array([texts]))
    _, first = np.unique(key_N, return_index=True)
    is_first_N = np.zeros(len(table), dtype=bool)
    is_first_N[first] = True
    return is_first_N


def with_undescribed(items: pa.Table, wanted: pa.Array) -> pa.Table:
    """The items, and those wanted that are not among them, titled by their ids."""
    is_known = pc.is_in(wanted, value_set=listed(items["item_id"]))
    missing = wanted.filter(pc.invert(is_known))
    if len(missing) == 0:
        return items
    log.info("%s items have no description: their ids are their titles", f"{len(missing):,}")
    columns = {
        field.name: missing
        if field.name in ("item_id", "title")
        else pa.nulls(len(missing), field.type)
        for field in items.schema
    }
    return pa.concat_tables([items, pa.table(columns, schema=items.schema)])


def used_fields(table: pa.Table, fields: Sequence[Field]) -> tuple[pa.Table, tuple[Field, ...]]:
    """The table and its fields without those that no row has a value for."""
    unused = [field.name for field in fields if table[field.name].null_count == len(table)]
    return table.drop_columns(unused), tuple(field for field in fields if field.name not in unused)
