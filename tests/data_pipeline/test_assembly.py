"""From rows to tables: repetitions, items without a record, counts; and tables kept on disk."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.corpus_schema import Field, item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.assembly import (
    check_counts,
    first_of_each,
    listed,
    repeated,
    used_fields,
    with_undescribed,
)
from data_pipeline.sources.spool import kept, spool_beside, spooled

BRAND = Field(name="brand", kind="category")


def test_counts_are_compared_where_they_are_known(tmp_path: Path) -> None:
    found = {"users": 1_000, "items": 5}
    check_counts("Set", found, {}, tmp_path)
    check_counts("Set", found, {"users": 1_000}, tmp_path)
    with pytest.raises(DataError, match="Set has 1,001 users; these files have 1,000") as caught:
        check_counts("Set", found, {"users": 1_001}, tmp_path)
    assert caught.value.file == str(tmp_path)


def test_repeated_events_are_the_later_ones() -> None:
    events = pa.table(
        {
            "user_id": ["a", "b", "a", "a", "a"],
            "item_id": ["x", "x", "x", "x", "y"],
            "timestamp": pa.array([1, 1, 1, 2, 1], pa.timestamp("ms", "UTC")),
            "action": ["seen"] * 5,
        }
    )
    assert repeated(events).tolist() == [False, False, True, False, False]


def test_first_of_each_pair() -> None:
    table = pa.table({"q": ["1", "1", "2", "1"], "i": ["x", "y", "x", "x"]})
    assert first_of_each(table, ["q", "i"]).tolist() == [True, True, True, False]
    assert first_of_each(table, ["q"]).tolist() == [True, False, True, False]


def test_items_without_a_record_are_titled_by_their_ids() -> None:
    schema = item_schema([BRAND])
    items = pa.table({"item_id": ["1"], "title": ["One"], "brand": ["B"]}, schema=schema)
    found = with_undescribed(items, pa.array(["2", "1", "3"]))
    assert found.to_pylist() == [
        {"item_id": "1", "title": "One", "brand": "B"},
        {"item_id": "2", "title": "2", "brand": None},
        {"item_id": "3", "title": "3", "brand": None},
    ]
    assert with_undescribed(items, pa.array(["1"])) is items


def test_fields_that_nobody_has_are_left_out() -> None:
    schema = item_schema([BRAND, Field(name="price", kind="number")])
    items = pa.table(
        {"item_id": ["1"], "title": ["One"], "brand": [None], "price": [2.0]}, schema=schema
    )
    table, fields = used_fields(items, [BRAND, Field(name="price", kind="number")])
    assert table.column_names == ["item_id", "title", "price"]
    assert [field.name for field in fields] == ["price"]


def test_listed_keeps_the_first_order() -> None:
    assert listed(pa.chunked_array([["b", "a"], ["b", "c"]])).to_pylist() == ["b", "a", "c"]
    assert listed(pa.chunked_array([], pa.string())).to_pylist() == []


def test_spooled_tables_are_the_pieces_and_leave_nothing(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    before = pa.total_allocated_bytes()
    with spool_beside(tmp_path / "deep" / "corpus") as spool:
        pieces = (
            pa.table({"text": ["x" * 1000] * 1000, "n": range(i * 1000, i * 1000 + 1000)})
            for i in range(20)
        )
        table = spooled(spool, schema, pieces)
        assert table["n"].to_pylist() == list(range(20_000))
        assert pa.total_allocated_bytes() - before < 5_000_000  # of 20 MB
        odd = kept(spool, table, np.arange(20_000) % 2 == 1)
        assert odd["n"].to_pylist()[:2] == [1, 3]
        assert len(odd) == 10_000
        assert kept(spool, table, np.ones(20_000, bool)) is table
        assert len(spooled(spool, schema, iter(()))) == 0
    assert list((tmp_path / "deep").iterdir()) == []
