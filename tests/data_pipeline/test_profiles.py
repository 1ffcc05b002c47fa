"""Profiles beside the ids of a corpus."""

import pyarrow as pa

from data_pipeline.sources.profiles import counted, described, known, yes_no


def test_described_follows_the_ids() -> None:
    table = pa.table({"age": [3, 4, 5], "user_id": ["b", "a", "a"]})
    found = described(pa.array(["a", "z", "b"]), table, "user_id")
    assert found.to_pylist() == [
        {"user_id": "a", "age": 4},
        {"user_id": "z", "age": None},
        {"user_id": "b", "age": 3},
    ]


def test_described_by_nothing() -> None:
    empty = pa.table({"user_id": pa.array([], pa.string()), "age": pa.array([], pa.int64())})
    assert described(pa.array(["a"]), empty, "user_id").to_pylist() == [
        {"user_id": "a", "age": None}
    ]


def test_known_drops_what_says_nothing() -> None:
    column = pa.chunked_array([["", "UNKNOWN", "unknown", None, "full"]])
    assert known(column, "UNKNOWN").to_pylist() == [None, None, "unknown", None, "full"]


def test_yes_no_keeps_null() -> None:
    assert yes_no(pa.chunked_array([[True, False, None]])).to_pylist() == ["yes", "no", None]


def test_counted() -> None:
    found = counted(pa.chunked_array([["b", "a"], ["b"]]), "n", "id")
    assert found.to_pylist() == [{"id": "b", "n": 2.0}, {"id": "a", "n": 1.0}]
