"""Clothing reviews in their own format: parquet under brotli, one anonymous review per row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources.clothing_reviews import ClothingReviews

NAMES = ("Clothing ID", "Age", "Title", "Review Text", "Rating", "Recommended IND",
         "Positive Feedback Count", "Division Name", "Department Name", "Class Name")  # fmt: skip
ROWS: list[tuple[Any, ...]] = [
    (767, 33, None, "Absolutely wonderful", 4, 1, 0, "Initmates", "Intimate", "Intimates"),
    (1119, 34, "Warm", "Love it.\r\nReally!", 5, 1, 4, "General", "Jackets", "Outerwear"),
    (1119, 60, "Flaws", None, 2, 0, 0, "General Petite", "Jackets", "Jackets"),
    (1119, 39, None, " ", 5, 1, 0, "General", "Jackets", "Jackets"),
    (3, 39, None, "fine", 3, 0, 0, None, None, None),
]
COUNTS = {"reviews": 5, "items": 3, "texts": 3}


def write(folder: Path, rows: list[tuple[Any, ...]] = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = dict(zip(NAMES, zip(*rows, strict=True), strict=True))
    table = pa.table({**columns, "__index_level_0__": list(range(len(rows)))})
    path = folder / "WomensClothingE-CommerceReviews.parquet.brotli"
    pq.write_table(table, path, compression="brotli")
    return path


def test_file_becomes_a_corpus(tmp_path: Path) -> None:
    write(tmp_path / "have")
    source = ClothingReviews(counts=COUNTS)
    corpus = source.build(source.fetch(tmp_path / "cache", tmp_path / "have"), tmp_path / "corpus")
    assert corpus.items.to_pylist() == [
        {"item_id": "767", "title": "Intimates 767", "clothing_class": "Intimates",
         "department": "Intimate"},
        {"item_id": "1119", "title": "Jackets 1119", "clothing_class": "Jackets",
         "department": "Jackets"},
        {"item_id": "3", "title": "Garment 3", "clothing_class": None, "department": None},
    ]  # fmt: skip
    assert corpus.users["age"].to_pylist() == [33.0, 34.0, 60.0, 39.0, 39.0]
    assert not corpus.card.has_times
    events = corpus.events.to_pylist()
    assert events[1] == {
        "user_id": "reviewer-2",
        "item_id": "1119",
        "timestamp": None,
        "action": "rated",
        "value": 5.0,
        "request_id": None,
        "summary": "Warm",
        "review": "Love it. Really!",
        "recommended": "yes",
        "helpful": 4.0,
        "line": "General",
    }
    assert [event["review"] for event in events[2:4]] == [None, None]
    assert [event["line"] for event in events] == [
        "Intimates", "General", "General Petite", "General", None
    ]  # fmt: skip


@pytest.mark.parametrize(("position", "value"), [(0, None), (1, None), (4, 6), (5, 2)])
def test_spoilt_row_is_named(tmp_path: Path, position: int, value: object) -> None:
    row = list(ROWS[2])
    row[position] = value
    path = write(tmp_path, [*ROWS[:2], tuple(row)])
    with pytest.raises(DataError, match="no review with item, age") as caught:
        ClothingReviews(counts={}).build({"events": path}, tmp_path / "corpus")
    assert (caught.value.file, caught.value.row) == (str(path), 3)


def test_other_files(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match="has 23,486 reviews; these files have 5"):
        ClothingReviews().build({"events": path}, tmp_path / "corpus")
    pq.write_table(pa.table({"Age": [1]}), path)
    with pytest.raises(DataError, match="cannot be read"):
        ClothingReviews().build({"events": path}, tmp_path / "corpus")
    path.write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        ClothingReviews().build({"events": path}, tmp_path / "corpus")
