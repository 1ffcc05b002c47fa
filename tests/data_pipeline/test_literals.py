"""Lines of Python literals: read, never run."""

from pathlib import Path

import pyarrow as pa
import pytest
from packed_files import write_gz

from data_pipeline.errors import DataError
from data_pipeline.sources import literals
from data_pipeline.sources.literals import in_tables, literal_records


def test_literals_are_records_with_their_rows(tmp_path: Path) -> None:
    lines = ["{u'id': u'10', 'text': 'it\\'s \\u2665', 'free': False, 'price': None}", "", "{}"]
    path = write_gz(tmp_path / "a.json.gz", lines)
    assert list(literal_records(path)) == [
        (1, {"id": "10", "text": "it's ♥", "free": False, "price": None}),
        (2, {}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': open('/etc/passwd').read()}", "no Python literal"),
        ("{'id': 1", "no Python literal"),
        ('{"id": true}', "no Python literal"),
        ("[1, 2]", "no record"),
    ],
)
def test_other_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write_gz(tmp_path / "a.json.gz", ["{'id': '1'}", line])
    with pytest.raises(DataError, match=message) as caught:
        list(literal_records(path))
    assert (caught.value.file, caught.value.row, caught.value.value) == (str(path), 2, line)


def test_no_line_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = write_gz(tmp_path / "a.json.gz", [f"__import__('pathlib').Path('{trap}').touch()"])
    with pytest.raises(DataError):
        list(literal_records(path))
    assert not trap.exists()


def test_rows_become_tables_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(literals, "_ROWS", 2)
    schema = pa.schema([("id", pa.string()), ("n", pa.float64())])
    rows = [{"id": "a", "n": 1, "other": 7}, {"id": "b\ud83d"}, {"id": None, "n": 2.5}]
    tables = list(in_tables(iter(rows), schema))
    assert [len(table) for table in tables] == [2, 1]
    assert pa.concat_tables(tables).to_pylist() == [
        {"id": "a", "n": 1.0},
        {"id": "b?", "n": None},
        {"id": None, "n": 2.5},
    ]
