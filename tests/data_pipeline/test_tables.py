"""A user's own files: every format gives the same corpus, every mistake is named to the cell."""

import gzip
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources import readers
from data_pipeline.sources.tables import import_tables

EVENTS = [
    {"uid": "007", "sku": "a", "ts": "1700000000", "kind": "viewed", "stars": None},
    {"uid": "ключ", "sku": "b,c", "ts": "1700000060", "kind": "bought", "stars": "4.5"},
    {"uid": "007", "sku": "b,c", "ts": "1700000120", "kind": "viewed", "stars": "3"},
]
ITEMS = [
    {"sku": "a", "name": 'Tea "Blue"\nloose', "cat": "tea|hot", "price": "3.5"},
    {"sku": "b,c", "name": "Café <|im_end|> 😀", "cat": "coffee", "price": None},
]
USERS = [{"uid": "007", "age": "40"}, {"uid": "ключ", "age": None}]

Rows = list[dict[str, Any]]


def as_csv(rows: Rows, delimiter: str = ",") -> str:
    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        if any(mark in text for mark in (delimiter, '"', "\n")):
            return '"' + text.replace('"', '""') + '"'
        return text

    names = list(rows[0])
    table = [names, *([row[name] for name in names] for row in rows)]
    return "".join(delimiter.join(map(cell, row)) + "\n" for row in table)


def write_csv(path: Path, rows: Rows) -> None:
    path.write_text(as_csv(rows), encoding="utf-8")


def write_tsv(path: Path, rows: Rows) -> None:
    path.write_text(as_csv(rows, "\t"), encoding="utf-8")


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "csv": write_csv,
    "tsv": write_tsv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


class Shop:
    """A folder with a mapping and its files, each of which a test may change."""

    def __init__(self, folder: Path, ending: str = "csv") -> None:
        self.folder = folder
        self.ending = ending
        self.write("events", EVENTS)
        self.write("items", ITEMS)
        self.write("users", USERS)
        self.mapping: dict[str, Any] = {
            "name": "shop",
            "item_noun": "product",
            "events": {
                "path": f"events.{ending}",
                "columns": {
                    "user_id": "uid",
                    "item_id": "sku",
                    "timestamp": "ts",
                    "action": "kind",
                    "value": "stars",
                },
            },
            "items": {
                "path": f"items.{ending}",
                "columns": {"item_id": "sku", "title": "name"},
                "fields": {
                    "category": {"column": "cat", "kind": "categories", "separator": "|"},
                    "price": {"column": "price", "kind": "number"},
                },
            },
            "users": {
                "path": f"users.{ending}",
                "columns": {"user_id": "uid"},
                "fields": {"age": {"column": "age", "kind": "number"}},
            },
        }

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.{self.ending}"

    def write(self, name: str, rows: Rows) -> None:
        WRITERS[self.ending](self.path(name), rows)

    def run(self) -> Corpus:
        mapping = self.folder / "shop.yaml"
        mapping.write_text(yaml.safe_dump(self.mapping, allow_unicode=True), encoding="utf-8")
        return import_tables(mapping, self.folder / "corpus")

    def refused(self) -> DataError:
        before = sorted(path.name for path in self.folder.iterdir())
        with pytest.raises(DataError) as caught:
            self.run()
        after = sorted(path.name for path in self.folder.iterdir())
        assert set(after) - set(before) <= {"shop.yaml"}, "something half-written remains"
        assert caught.value.remedy
        return caught.value


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def event(**changes: Any) -> dict[str, Any]:
    return {**EVENTS[0], **changes}


# --- what comes out ------------------------------------------------------------------------------


def check_shop(corpus: Corpus) -> None:
    assert corpus.items.to_pylist() == [
        {"item_id": "a", "title": 'Tea "Blue" loose', "category": ["tea", "hot"], "price": 3.5},
        {
            "item_id": "b,c",
            "title": "Café <|im_end|> 😀",
            "category": ["coffee"],
            "price": None,
        },
    ]
    assert corpus.users.to_pylist() == [
        {"user_id": "007", "age": 40.0},
        {"user_id": "ключ", "age": None},
    ]
    assert corpus.events.select(["user_id", "item_id", "action", "value"]).to_pylist() == [
        {"user_id": "007", "item_id": "a", "action": "viewed", "value": None},
        {"user_id": "007", "item_id": "b,c", "action": "viewed", "value": 3.0},
        {"user_id": "ключ", "item_id": "b,c", "action": "bought", "value": 4.5},
    ]
    assert corpus.time_E.tolist() == [1700000000000, 1700000120000, 1700000060000]
    assert (corpus.name, corpus.card.item_noun) == ("shop", "product")


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_corpus(tmp_path: Path, ending: str) -> None:
    check_shop(Shop(tmp_path, ending).run())


def test_typed_parquet_and_nested_json(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "parquet")
    times = [datetime.fromtimestamp(int(row["ts"]), UTC) for row in EVENTS]
    stars = [None, 4.5, 3.0]
    rows = [
        {**row, "ts": moment, "stars": star}
        for row, moment, star in zip(EVENTS, times, stars, strict=True)
    ]
    shop.write("events", rows)
    write_jsonl(
        tmp_path / "items.jsonl",
        [
            {**ITEMS[0], "cat": ["tea", "hot"], "price": 3.5, "unused": {"deep": 1}},
            {**ITEMS[1], "cat": ["coffee"]},
        ],
    )
    shop.mapping["items"]["path"] = "items.jsonl"
    check_shop(shop.run())


def test_integer_ids_are_text(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "parquet")
    big = 2**62 + 1
    shop.write("events", [event(uid=big, sku=1), event(uid=7, sku=2)])
    shop.mapping |= {"users": None, "items": None}
    assert shop.run().users["user_id"].to_pylist() == [str(big), "7"]


def test_json_numbers_keep_their_digits(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "jsonl")
    shop.path("events").write_text(
        '{"uid": 123456789012345678901, "sku": "2024-01-01", "ts": 1700000000.25}\n\n'
        '{"uid": 7, "sku": "2024-01-01", "ts": 1700000001}\n'
    )
    shop.mapping |= {"users": None, "items": None}
    del shop.mapping["events"]["columns"]["action"], shop.mapping["events"]["columns"]["value"]
    corpus = shop.run()
    assert corpus.users["user_id"].to_pylist() == ["123456789012345678901", "7"]
    assert corpus.items["item_id"].to_pylist() == ["2024-01-01"]
    assert corpus.time_E.tolist() == [1700000000250, 1700000001000]
    assert corpus.card.actions == ("interacted",)


def test_only_events_are_needed(shop: Shop) -> None:
    del shop.mapping["items"], shop.mapping["users"]
    del shop.mapping["events"]["columns"]["action"]
    shop.mapping["events"]["action"] = "bought"
    corpus = shop.run()
    assert corpus.items.to_pylist() == [
        {"item_id": "a", "title": "a"},
        {"item_id": "b,c", "title": "b,c"},
    ]
    assert corpus.users["user_id"].to_pylist() == ["007", "ключ"]
    assert corpus.card.actions == ("bought",)


def test_user_with_one_event_is_kept(shop: Shop) -> None:
    shop.write("events", [event()])
    corpus = shop.run()
    assert corpus.user_offsets_U1.tolist() == [0, 1, 1]


def test_title_of_100_kb_goes_through(shop: Shop) -> None:
    title = "very long " * 10_000
    shop.write("items", [{**ITEMS[0], "name": title}, ITEMS[1]])
    assert shop.run().items["title"][0].as_py() == title.strip()


def test_patterns_read_many_files_in_order(shop: Shop) -> None:
    shop.path("events").unlink()
    (shop.folder / "log").mkdir()
    for number, row in enumerate(EVENTS):
        write_csv(shop.folder / "log" / f"part-{number}.csv", [row])
    shop.mapping["events"]["path"] = "log/part-*.csv"
    check_shop(shop.run())
    write_csv(shop.folder / "log" / "part-1.csv", [EVENTS[1], event(ts="soon")])
    (shop.folder / "corpus").rename(shop.folder / "old")
    error = shop.refused()
    assert (error.file, error.row) == (str(shop.folder / "log" / "part-1.csv"), 2)


def test_compressed_and_remote_files_are_read(shop: Shop) -> None:
    packed = gzip.compress(shop.path("events").read_bytes())
    with fsspec.open("memory://bucket/events.csv.gz", "wb") as file:
        file.write(packed)
    shop.mapping["events"]["path"] = "memory://bucket/events.csv.gz"
    check_shop(shop.run())


def test_other_delimiter_encoding_and_plain_quotes(shop: Shop) -> None:
    text = 'sku;name;cat;price\na;12" Café;x;1\nb,c;"Heroes;y;2\n'
    shop.path("items").write_bytes(text.encode("latin-1"))
    shop.mapping["items"] |= {"delimiter": ";", "encoding": "latin-1", "quote": ""}
    assert shop.run().items["title"].to_pylist() == ['12" Café', '"Heroes']


def test_byte_order_mark_and_blank_lines_do_no_harm(shop: Shop) -> None:
    text = as_csv(EVENTS).replace("\n", "\r\n\r\n")
    shop.path("events").write_text("\ufeff" + text, encoding="utf-8", newline="")
    check_shop(shop.run())


def test_long_json_files_are_read_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_JSON_ROWS", 2)
    shop = Shop(tmp_path, "jsonl")
    check_shop(shop.run())


# --- choices of the mapping ----------------------------------------------------------------------


def test_duplicates_may_be_dropped(shop: Shop) -> None:
    shop.write("events", [*EVENTS, event(stars="5"), event(), event(kind="bought")])
    shop.mapping["events"]["duplicates"] = "drop"
    corpus = shop.run()
    assert corpus.card.counts["dropped_duplicates"] == 2
    assert len(corpus.events) == 4
    assert corpus.events["value"][0].as_py() is None  # the first of each stays


def test_unknown_ids_may_be_dropped(shop: Shop) -> None:
    shop.write("events", [event(sku="zz"), event(uid="nobody"), *EVENTS])
    shop.mapping["events"]["unknown_ids"] = "drop"
    corpus = shop.run()
    assert corpus.card.counts["dropped_unknown_ids"] == 2
    assert len(corpus.events) == 3


def test_rows_are_right_after_dropping(shop: Shop) -> None:
    shop.write("events", [event(sku="zz"), event(), event(sku="zz", ts="1700000005"), event()])
    shop.mapping["events"]["unknown_ids"] = "drop"
    error = shop.refused()
    assert error.row == 4
    assert "already in row 2 of" in error.message


def test_missing_titles_may_be_ids(shop: Shop) -> None:
    shop.write("items", [{**ITEMS[0], "name": " "}, ITEMS[1]])
    error = shop.refused()
    assert (error.row, error.column) == (1, "name")
    assert "missing_titles: id" in str(error.remedy)
    shop.mapping["items"]["missing_titles"] = "id"
    assert shop.run().items["title"][0].as_py() == "a"


# --- mistakes in the files -----------------------------------------------------------------------


@pytest.mark.parametrize("ending", WRITERS)
def test_missing_column_lists_the_columns_and_the_nearest(tmp_path: Path, ending: str) -> None:
    shop = Shop(tmp_path, ending)
    shop.mapping["events"]["columns"]["item_id"] = "SKU_"
    error = shop.refused()
    assert (error.file, error.column) == (str(shop.path("events")), "SKU_")
    assert "did you mean 'sku'?" in error.message
    assert "uid, sku, ts, kind, stars" in error.message
    assert "item_id" in str(error.remedy)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("bad", ["yesterday", "2024-13-45", "2024-01-01T25:00:00", "31/12/2023"])
def test_unparsable_timestamp(tmp_path: Path, ending: str, bad: str) -> None:
    shop = Shop(tmp_path, ending)
    good = "2024-01-01T00:00:00"
    shop.write("events", [event(ts=good), event(ts=good, sku="b,c"), event(ts=bad)])
    error = shop.refused()
    assert "cannot be read" in error.message
    assert (error.file, error.row) == (str(shop.path("events")), 3)
    assert (error.column, error.value) == ("ts", bad)
    assert "ISO 8601" in str(error.remedy)


@pytest.mark.parametrize(
    ("first", "other", "units"),
    [
        ("1700000000", "1700000060000", ("s", "ms")),
        ("1700000000000", "1700000060000000", ("ms", "us")),
        ("1700000000", "2023-11-14T22:14:20Z", ("numbers", "ISO 8601")),
        ("2023-11-14", "1700000060", ("ISO 8601", "numbers")),
    ],
)
def test_mixed_timestamp_units(shop: Shop, first: str, other: str, units: tuple[str, str]) -> None:
    shop.write("events", [event(ts=first), event(ts=first, sku="b,c"), event(ts=other)])
    error = shop.refused()
    assert f"row 1 has {units[0]} ('{first}'), this one has {units[1]}" in error.message
    assert (error.file, error.row, error.column) == (str(shop.path("events")), 3, "ts")
    assert error.value == other
    assert "timestamp_unit" in str(error.remedy)


def test_wrong_explicit_unit(shop: Shop) -> None:
    shop.mapping["events"]["timestamp_unit"] = "iso"
    assert "not a time in unit iso" in shop.refused().message
    shop.write("events", [event(ts="1700000000000")])
    shop.mapping["events"]["timestamp_unit"] = "s"
    error = shop.refused()
    assert "in the future" in error.message
    assert (error.row, error.column, error.value) == (1, "ts", "1700000000000")
    assert "timestamp_unit" in str(error.remedy)


def test_missing_timestamp(shop: Shop) -> None:
    shop.write("events", [event(), event(ts=None)])
    error = shop.refused()
    assert (error.message, error.row, error.column) == ("the timestamp is missing", 2, "ts")


@pytest.mark.parametrize(("column", "what"), [("sku", "item"), ("uid", "user")])
def test_event_that_refers_to_an_unknown_id(shop: Shop, column: str, what: str) -> None:
    shop.write("events", [*EVENTS, event(**{column: "7"})])
    error = shop.refused()
    assert f"unknown {what}" in error.message
    assert f"{what}s.csv" in error.message
    assert (error.file, error.row) == (str(shop.path("events")), 4)
    assert (error.column, error.value) == (column, "7")
    assert "unknown_ids: drop" in str(error.remedy)


def test_duplicate_event(shop: Shop) -> None:
    shop.write("events", [*EVENTS, event()])
    error = shop.refused()
    assert f"already in row 1 of {shop.path('events')}" in error.message
    assert (error.file, error.row) == (str(shop.path("events")), 4)
    assert "007, a, 2023-11-14" in str(error.value)
    assert "duplicates: drop" in str(error.remedy)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("bad", ["NaN", "nan", "3,5", "four", "1_0"])
def test_value_that_is_no_number(tmp_path: Path, ending: str, bad: str) -> None:
    shop = Shop(tmp_path, ending)
    shop.write("events", [event(), event(sku="b,c", stars=bad)])
    error = shop.refused()
    assert "not a number" in error.message
    assert (error.file, error.row) == (str(shop.path("events")), 2)
    assert (error.column, error.value) == ("stars", bad)
    assert "empty" in str(error.remedy)


@pytest.mark.parametrize("table", ["events", "items"])
def test_nan_in_parquet(tmp_path: Path, table: str) -> None:
    shop = Shop(tmp_path, "parquet")
    nan = float("nan")
    shop.write(
        "events", [event(stars=1.0), event(sku="b,c", stars=nan if table == "events" else 2.0)]
    )
    if table == "items":
        shop.write("items", [{**ITEMS[0], "price": 1.0}, {**ITEMS[1], "price": nan}])
    error = shop.refused()
    assert "not a finite number" in error.message
    assert (error.file, error.row) == (str(shop.path(table)), 2)
    assert error.column == {"events": "stars", "items": "price"}[table]
    assert str(error.value) == "nan"


def test_nan_among_json_constants(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "jsonl")
    shop.write("events", [event(stars=float("nan"))])
    assert shop.refused().row == 1


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("table", ["events", "items", "users"])
def test_file_without_rows(tmp_path: Path, ending: str, table: str) -> None:
    shop = Shop(tmp_path, ending)
    header = {"csv": "uid,sku,ts\n", "tsv": "uid\tsku\tts\n", "jsonl": "\n"}
    if ending == "parquet":
        pq.write_table(pq.read_table(shop.path(table)).slice(0, 0), shop.path(table))
    else:
        names = list({"events": EVENTS, "items": ITEMS, "users": USERS}[table][0])
        separator = "\t" if ending == "tsv" else ","
        shop.path(table).write_text(
            header[ending] if ending == "jsonl" else separator.join(names) + "\n"
        )
    error = shop.refused()
    assert "the file is empty" in error.message
    assert error.file == str(shop.path(table))


@pytest.mark.parametrize("ending", WRITERS)
def test_file_of_no_bytes(tmp_path: Path, ending: str) -> None:
    shop = Shop(tmp_path, ending)
    shop.path("events").write_bytes(b"")
    error = shop.refused()
    assert error.file == str(shop.path("events"))
    assert re.search(r"empty|cannot be read as parquet", error.message)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_ragged_row(tmp_path: Path, ending: str) -> None:
    shop = Shop(tmp_path, ending)
    separator = "\t" if ending == "tsv" else ","
    text = as_csv(EVENTS, separator) + separator.join("abcdef") + "\n"
    shop.path("events").write_text(text)
    error = shop.refused()
    assert "6 values where the first line names 5 columns" in error.message
    assert (error.file, error.row) == (str(shop.path("events")), 4)
    assert "quote" in str(error.remedy)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_quote_that_is_never_closed(shop: Shop, end: str) -> None:
    text = "uid,sku,ts,kind,stars\n007,a,1700000000,viewed,1\n"
    text += '007,a,1700000001,viewed,"4\n007,a,1700000002,viewed,5' + end
    shop.path("events").write_text(text, newline="")
    error = shop.refused()
    assert "never closed" in error.message
    assert (error.row, error.column) == (2, "stars")
    shop.path("events").write_text(text.replace('"4', "4"), newline="")
    assert len(shop.run().events) == 3


def test_text_that_is_not_utf8(shop: Shop) -> None:
    text = as_csv([{"sku": "a", "name": "Tea"}, {"sku": "b,c", "name": "Café"}])
    shop.path("items").write_bytes(text.encode("latin-1"))
    shop.mapping["items"]["fields"] = {}
    error = shop.refused()
    assert (error.file, error.row, error.column) == (str(shop.path("items")), 2, "name")
    assert "latin-1" in str(error.remedy)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"uid": "1",', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"uid": {"a": 1}, "sku": "a", "ts": 1}', "neither a text, a number"),
        ('{"uid": ["x"], "sku": "a", "ts": 1}', "lists in some rows"),
    ],
)
def test_spoilt_json_line(tmp_path: Path, line: str, message: str) -> None:
    shop = Shop(tmp_path, "jsonl")
    with shop.path("events").open("a") as file:
        file.write(f"\n{line}\n")  # the blank line is no row
    error = shop.refused()
    assert message in error.message
    assert (error.file, error.row) == (str(shop.path("events")), 4)


def test_truncated_parquet_and_gzip(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "parquet")
    content = shop.path("events").read_bytes()
    shop.path("events").write_bytes(content[:-20])
    error = shop.refused()
    assert "cannot be read as parquet" in error.message
    assert error.file == str(shop.path("events"))
    packed = gzip.compress(as_csv(EVENTS * 1000).encode())
    (tmp_path / "events.csv.gz").write_bytes(packed[: len(packed) // 2])
    shop.mapping["events"]["path"] = "events.csv.gz"
    error = shop.refused()
    assert error.file == str(tmp_path / "events.csv.gz")


def test_ids_as_floats_are_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "parquet")
    shop.write("events", [event(uid=7.0)])
    error = shop.refused()
    assert "ids are of type double" in error.message
    assert error.column == "uid"


@pytest.mark.parametrize("made", [True, False])
def test_missing_id(shop: Shop, made: bool) -> None:
    shop.write("events", [event(), event(sku="")])
    if made:
        del shop.mapping["items"]
    error = shop.refused()
    assert error.message == "the id is missing"
    assert (error.file, error.row, error.column) == (str(shop.path("events")), 2, "sku")


def test_repeated_item_id(shop: Shop) -> None:
    shop.write("items", [*ITEMS, ITEMS[0]])
    error = shop.refused()
    assert "already in row 1" in error.message
    assert (error.file, error.row, error.column) == (str(shop.path("items")), 3, "sku")


def test_two_columns_of_one_name(shop: Shop) -> None:
    shop.path("events").write_text("uid,uid,sku,ts,kind,stars\n1,2,a,3,b,4\n")
    error = shop.refused()
    assert ("two columns" in error.message, error.column) == (True, "uid")


def test_categories_without_separator(shop: Shop) -> None:
    del shop.mapping["items"]["fields"]["category"]["separator"]
    error = shop.refused()
    assert (error.row, error.column, error.value) == (1, "cat", "tea|hot")
    assert "separator" in str(error.remedy)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.csv", "no such file"),
        ("none-*.csv", "no such file"),
        ("nowhere://bucket/a.csv", "cannot be opened"),
        ("shop.yaml", "ending does not say the format"),
    ],
)
def test_file_that_cannot_be_opened(shop: Shop, path: str, message: str) -> None:
    shop.mapping["events"]["path"] = path
    error = shop.refused()
    assert message in error.message
    assert path in str(error.file)


# --- mistakes in the mapping ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ((), "item_nown", "x", "unknown key 'item_nown': did you mean 'item_noun'?"),
        (("events",), "colums", {}, "unknown key 'events.colums': did you mean 'columns'?"),
        (("events", "columns"), "item", "x", "'events.columns.item': did you mean 'item_id'?"),
        (
            ("items", "fields", "price"),
            "colum",
            "x",
            "'items.fields.price.colum': did you mean 'column'?",
        ),
        (("events",), "timestamp_unit", "min", "'events.timestamp_unit' cannot have this value"),
        (("events",), "duplicates", True, "'events.duplicates' cannot have this value"),
        (("items", "fields", "price"), "kind", "money", "'items.fields.price.kind' cannot have"),
        (("items", "fields", "price"), "separator", "|", "a separator goes with kind: categories"),
        ((), "name", 7, "the key 'name' cannot have this value"),
    ],
)
def test_wrong_key_is_named(
    shop: Shop, place: tuple[str, ...], key: str, value: Any, message: str
) -> None:
    node = shop.mapping
    for part in place:
        node = node[part]
    node[key] = value
    error = shop.refused()
    assert message in error.message
    assert error.file == str(shop.folder / "shop.yaml")


def test_missing_key_is_named(shop: Shop) -> None:
    del shop.mapping["events"]["path"]
    assert shop.refused().message == "the key 'events.path' is missing"


def test_field_name_that_cannot_be(shop: Shop) -> None:
    shop.mapping["items"]["fields"]["two words"] = {"column": "cat", "kind": "text"}
    assert "'two words' cannot name a field" in shop.refused().message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [", "name: \x00"])
def test_mapping_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "shop.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        import_tables(tmp_path / "shop.yaml", tmp_path / "corpus")
    assert caught.value.file == str(tmp_path / "shop.yaml")
    assert not (tmp_path / "corpus").exists()


def test_mapping_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        import_tables(tmp_path / "shop.yaml", tmp_path / "corpus")


def test_existing_corpus_is_refused_before_anything_is_read(shop: Shop) -> None:
    shop.run()
    shop.path("events").unlink()
    with pytest.raises(DataError, match="exists already"):
        shop.run()
