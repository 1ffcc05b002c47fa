"""Big files block by block: what is read, what is refused, and that a mistake's row is right."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from packed_files import write_gz

from data_pipeline.errors import DataError
from data_pipeline.sources import streams
from data_pipeline.sources.streams import csv_tables, json_tables, selected_records

FIELDS = {
    "user_id": pa.field("user", pa.string()),
    "value": pa.field("stars", pa.float64()),
    "votes": pa.field("votes", pa.list_(pa.int64())),
}


def rows(path: Path, fields: dict[str, pa.Field] = FIELDS) -> list[dict[str, object]]:
    return [row for table, _ in json_tables(path, fields) for row in table.to_pylist()]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_BLOCK_BYTES", 64)


@pytest.mark.usefixtures("small_blocks")
def test_json_in_blocks_is_the_file(tmp_path: Path) -> None:
    records = [{"stars": i / 2, "user": f"U{i}", "votes": [i, 2 * i]} for i in range(50)]
    path = write_gz(tmp_path / "a.json.gz", map(json.dumps, records))
    tables = list(json_tables(path, FIELDS))
    assert len(tables) > 10
    assert [len(table) for table, _ in tables] != [1] * 50
    found = pa.concat_tables(table for table, _ in tables)
    assert found["user_id"].to_pylist() == [f"U{i}" for i in range(50)]
    assert found["votes"].to_pylist()[7] == [7, 14]
    assert tables[-1][1].locate(len(tables[-1][0]) - 1) == (str(path), 50)


def test_json_keys_may_be_missing_null_or_more(tmp_path: Path) -> None:
    lines = [
        '{"user": "A", "stars": 5, "images": [{"url": "x"}], "votes": null}',
        "",
        '{"user": null}',
        '{"stars": 4.5, "user": "2020-01-01", "details": {"Brand": "B"}}',
    ]
    assert rows(write_gz(tmp_path / "a.jsonl.gz", lines)) == [
        {"user_id": "A", "value": 5.0, "votes": None},
        {"user_id": None, "value": None, "votes": None},
        {"user_id": "2020-01-01", "value": 4.5, "votes": None},
    ]


def test_half_an_emoji_is_no_reason_to_stop(tmp_path: Path) -> None:
    path = write_gz(tmp_path / "a.jsonl.gz", [r'{"user": "A\ud83d", "stars": 1, "votes": [1]}'])
    assert rows(path) == [{"user_id": "A?", "value": 1.0, "votes": [1]}]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("line", "message", "column"),
    [
        ('{"user": "A", "stars": 5', "not JSON", None),
        ('["A", 5]', "not a JSON object", None),
        ('{"user": "A", "stars": "five"}', "not of type double", "stars"),
        ('{"user": 7, "stars": 5}', "not of type string", "user"),
    ],
)
def test_json_mistake_is_named_by_row(
    tmp_path: Path, line: str, message: str, column: str | None
) -> None:
    lines = [json.dumps({"user": f"U{i}", "stars": 1.0}) for i in range(40)]
    lines[24] = line
    lines.insert(3, "")  # blank lines are no rows
    path = write_gz(tmp_path / "a.jsonl.gz", lines)
    with pytest.raises(DataError, match=message) as caught:
        rows(path)
    assert (caught.value.file, caught.value.row) == (str(path), 25)
    assert caught.value.column == column


def test_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"user": "A"}\n{"user": "caf\xe9"}\n')
    with pytest.raises(DataError, match="not JSON") as caught:
        rows(path)
    assert caught.value.row == 2


@pytest.mark.parametrize("cut", [10, 200])
def test_cut_off_download_is_named(tmp_path: Path, cut: int) -> None:
    lines = [json.dumps({"user": f"U{i * i}", "stars": i}) for i in range(200)]
    path = write_gz(tmp_path / "a.jsonl.gz", lines)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read") as caught:
        rows(path)
    assert caught.value.file == str(path)


@pytest.mark.usefixtures("small_blocks")
def test_csv_in_blocks_is_the_file(tmp_path: Path) -> None:
    lines = ["user,item,stars", *(f'U{i},"I, {i}",{i}.5' for i in range(30))]
    path = write_gz(tmp_path / "a.csv.gz", lines)
    tables = list(csv_tables(path, {"item_id": "item", "user_id": "user"}))
    assert len(tables) > 3
    found = pa.concat_tables(table for table, _ in tables)
    assert found.column_names == ["item_id", "user_id"]
    assert found.to_pylist()[29] == {"item_id": "I, 29", "user_id": "U29"}
    assert tables[-1][1].locate(len(tables[-1][0]) - 1) == (str(path), 30)
    assert tables[0][1].column("item_id") == "item"


def test_csv_without_header_or_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('1\tsay "no\t\n2\tyes"\tx\n')
    header = ("id", "text", "note")
    [(table, _)] = csv_tables(
        path, {"note": "note", "text": "text"}, header=header, delimiter="\t", quote=""
    )
    assert table.to_pylist() == [
        {"note": "", "text": 'say "no'},
        {"note": "x", "text": 'yes"'},
    ]


@pytest.mark.parametrize("header", [None, ("user", "item")])
def test_csv_row_of_another_width_is_named(tmp_path: Path, header: tuple[str, ...] | None) -> None:
    lines = ["user,item"] * (header is None) + ["A,1", "B,2", "C", "D,4"]
    path = write_gz(tmp_path / "a.csv.gz", lines)
    with pytest.raises(DataError, match="has 1 values where 2 are expected") as caught:
        list(csv_tables(path, {"user_id": "user"}, header=header))
    assert (caught.value.file, caught.value.row, caught.value.value) == (str(path), 3, "C")


def test_csv_without_the_column_is_named(tmp_path: Path) -> None:
    path = write_gz(tmp_path / "a.csv.gz", ["user,item", "A,1"])
    with pytest.raises(DataError, match="stars") as caught:
        list(csv_tables(path, {"value": "stars"}))
    assert caught.value.file == str(path)


def test_only_wanted_records_are_parsed(tmp_path: Path) -> None:
    parsed: list[str] = []

    def parse(line: str) -> object:
        parsed.append(line)
        return json.loads(line)

    lines = [json.dumps({"id": f"I{i}", "price": "None" if i % 2 else i}) for i in range(9)]
    path = write_gz(tmp_path / "a.jsonl.gz", lines)
    key = re.compile(rb'"id": "([^"]+)"')
    found = list(selected_records(path, key, pa.array(["I7", "I2", "X"]), parse, lines=4))
    assert found == [(3, {"id": "I2", "price": 2}), (8, {"id": "I7", "price": "None"})]
    assert parsed == [lines[2], lines[7]]


def test_record_without_an_id_is_parsed_and_may_fail(tmp_path: Path) -> None:
    path = write_gz(tmp_path / "a.jsonl.gz", ['{"id": "A"}', "<html>please log in</html>"])
    with pytest.raises(DataError, match="cannot be parsed") as caught:
        list(selected_records(path, re.compile(rb'"id": "(\w+)"'), pa.array(["B"]), json.loads))
    assert caught.value.row == 2
