"""Times as users write them: every unit is found, none is mixed up, nothing wraps around."""

from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.corpus_checks import Origin
from data_pipeline.errors import DataError
from data_pipeline.sources import convert

HERE = Origin(files=("here",))
MOMENT = 1_700_000_000_123  # 2023-11-14T22:13:20.123Z


def times(values: Any, unit: Any = "auto") -> list[int]:
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    result: list[int] = convert.to_times(column, unit, HERE).cast(pa.int64()).to_pylist()
    return result


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2023-11-14T22:13:20.123Z", 123),
        ("2023-11-14T22:13:20.123999Z", 123),
        ("2023-11-14 22:13:20.123456789", 123),
        ("2023-11-15T03:43:20.1+05:30", 100),
        ("2023-11-14T17:13:20-0500", 0),
        ("2023-11-14 23:13:20 +01", 0),
        ("2023-11-14 22:13Z", -20_000),
        ("  2023-11-14T22:13:20  ", 0),
        ("1700000000", 0),
        ("1700000000.123", 123),
        ("1.700000000123e9", 123),
        ("1700000000123", 123),
        ("1700000000123999", 123),
        ("1700000000123999999", 123),
    ],
)
def test_ways_to_write_a_time(text: str, ms: int) -> None:
    assert times([text]) == [1_700_000_000_000 + ms]


def test_date_alone_is_its_first_moment() -> None:
    assert times(["2023-11-14"]) == [1_699_920_000_000]
    assert times(pa.array([date(2023, 11, 14)])) == [1_699_920_000_000]


def test_iso_with_and_without_zone_may_mix() -> None:
    assert times(["2023-11-14T22:13:20", "2023-11-14T23:13:20+01:00"]) == [1_700_000_000_000] * 2


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_arrow_times_are_instants(unit: str, zone: str | None) -> None:
    scale = {"s": 1e-3, "ms": 1, "us": 10**3, "ns": 10**6}[unit]
    column = pa.array([int(MOMENT * scale)], pa.timestamp(unit, zone))
    assert times(column) == [MOMENT if unit != "s" else MOMENT // 1000 * 1000]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1_000_000_000_000, 1_700_000_000_000), min_size=1),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from(["int", "text"]),
    st.booleans(),
)
def test_unit_is_found_and_nothing_is_lost(
    moments: list[int], unit: str, kind: str, explicit: bool
) -> None:
    if unit == "s":
        moments = [moment // 1000 * 1000 for moment in moments]
        values = [moment // 1000 for moment in moments]
    else:
        values = [moment * {"ms": 1, "us": 10**3, "ns": 10**6}[unit] for moment in moments]
    column = pa.array(values if kind == "int" else [str(value) for value in values])
    assert times(column, unit if explicit else "auto") == moments


def test_float_seconds_are_rounded_to_milliseconds() -> None:
    assert times(pa.array([1700000000.1234, 1700000000.0])) == [MOMENT, 1_700_000_000_000]


@pytest.mark.parametrize("column", [pa.array([None, None], pa.string()), pa.nulls(2)])
def test_column_without_any_time(column: pa.Array) -> None:
    with pytest.raises(DataError, match="timestamp is missing"):
        times(column)


# The last one would be a day of 2023 after multiplication by 1000 modulo 2^64.
@pytest.mark.parametrize(
    "value", [10**18, -(10**18), 2**63 - 1, (2**64 + 1_700_000_000_384) // 1000]
)
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_absurd_numbers_do_not_wrap_around(value: int, unit: str) -> None:
    with pytest.raises(DataError, match=r"in the future|before 1970"):
        times(pa.array([value]), unit)
