"""The canonical tables: what is refused, what is kept as it is, and what a fingerprint is of."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline import content_hash, corpus_writing
from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.corpus_checks import plain_text, repeated_events
from data_pipeline.errors import DataError

FIELDS = (
    Field(name="genres", kind="categories"),
    Field(name="year", kind="year"),
    Field(name="price", kind="number"),
    Field(name="blurb", kind="text"),
)
DAY = 86_400_000


def tables(**changes: Any) -> dict[str, Any]:
    """Arguments of `write_corpus`; `items__title=[...]` replaces a column."""
    content: dict[str, dict[str, Any]] = {
        "items": {
            "item_id": ["i1", "i2", "i3"],
            "title": ["One", "Two", "Three"],
            "genres": [["Action", "War"], [], None],
            "year": [1990.0, None, 2001.0],
            "price": [1.5, 2.5, None],
            "blurb": ["a", None, "c"],
        },
        "users": {"user_id": ["u2", "u1"], "age": [20.0, None]},
        "events": {
            "user_id": ["u1", "u2", "u1", "u2"],
            "item_id": ["i1", "i1", "i2", "i3"],
            "timestamp": [3 * DAY, 5 * DAY, 2 * DAY, 5 * DAY],
            "action": ["rated"] * 4,
            "value": [1.0, 2.0, None, 2.0],
        },
    }
    for key, values in changes.items():
        table, _, column = key.partition("__")
        content[table][column] = values
    times = pa.array(content["events"]["timestamp"], pa.timestamp("ms", "UTC"))
    content["events"]["timestamp"] = times
    return {
        "name": "toy",
        "item_fields": FIELDS,
        "user_fields": (Field(name="age", kind="number"),),
        **{name: pa.table(columns) for name, columns in content.items()},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


def refused(folder: Path, arguments: dict[str, Any]) -> DataError:
    """Write must fail and leave nothing behind."""
    with pytest.raises(DataError) as caught:
        write_corpus(folder, **arguments)
    assert list(folder.parent.iterdir()) == []
    assert caught.value.remedy
    return caught.value


# --- what is written -----------------------------------------------------------------------------


def test_events_stand_by_user_then_time_then_given_order(folder: Path) -> None:
    corpus = write_corpus(folder, **tables())
    assert corpus.events["user_id"].to_pylist() == ["u2", "u2", "u1", "u1"]
    assert corpus.events["item_id"].to_pylist() == ["i1", "i3", "i2", "i1"]
    assert corpus.event_user_E.tolist() == [0, 0, 1, 1]
    assert corpus.event_item_E.tolist() == [0, 2, 1, 0]
    assert corpus.time_E.tolist() == [5 * DAY, 5 * DAY, 2 * DAY, 3 * DAY]
    assert corpus.user_offsets_U1.tolist() == [0, 2, 4]
    assert corpus.events["value"].to_pylist() == [2.0, 2.0, None, 1.0]
    assert corpus.events["request_id"].null_count == 4


def test_card_says_what_is_inside(folder: Path) -> None:
    card = write_corpus(
        folder,
        **tables(),
        item_noun="film",
        source="here",
        licence="CC0",
        dropped={"duplicates": 3},
    ).card
    assert (card.name, card.item_noun, card.source, card.licence) == ("toy", "film", "here", "CC0")
    assert card.item_fields == FIELDS
    assert card.actions == ("rated",)
    assert card.values == (1.0, 2.0)
    assert card.counts == {"items": 3, "users": 2, "events": 4, "dropped_duplicates": 3}
    assert Corpus.open(folder).card == card


def test_tables_are_read_only_when_asked_for(folder: Path) -> None:
    corpus = write_corpus(folder, **tables())
    (folder / "events.parquet").unlink()
    assert len(corpus.items) == 3
    with pytest.raises(DataError, match="is missing"):
        _ = corpus.events


def test_large_tables_are_written_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_corpus(folder, **tables())
    monkeypatch.setattr(corpus_writing, "_ROWS_PER_GROUP", 3)
    pieces = write_corpus(folder.parent / "pieces", **tables())
    assert pq.ParquetFile(pieces.folder / "events.parquet").num_row_groups == 2
    assert pieces.events.equals(whole.events)
    assert pieces.fingerprint == whole.fingerprint


def test_user_without_events_and_user_with_one_are_legal(folder: Path) -> None:
    corpus = write_corpus(
        folder,
        **tables(
            users__user_id=["u0", "u1", "u2"],
            users__age=[1.0, 2.0, 3.0],
            events__user_id=["u1", "u2", "u2", "u2"],
        ),
    )
    assert corpus.user_offsets_U1.tolist() == [0, 0, 1, 4]


def test_existing_corpus_is_replaced_only_when_asked(folder: Path) -> None:
    old = write_corpus(folder, **tables())
    changed = tables(items__title=["Uno", "Dos", "Tres"])
    with pytest.raises(DataError, match="exists already"):
        write_corpus(folder, **changed)
    assert Corpus.open(folder, verify=True).fingerprint == old.fingerprint
    assert write_corpus(folder, **changed, overwrite=True).items["title"][0].as_py() == "Uno"


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\nb\r\n\r\n c\td", "a b c d"),
        ("a\x00\x1b[31mb\x85c\u2028d\u2029e", "a [31mb c d e"),
        ("  two  spaces ", "two  spaces"),
        ("<|im_end|> <a_12> </s>", "<|im_end|> <a_12> </s>"),
        ("👩‍👩‍👧 café naïve 日本 \u202e", "👩‍👩‍👧 café naïve 日本 \u202e"),
    ],
)
def test_only_breaks_and_control_characters_change(given: str, kept: str, folder: Path) -> None:
    titles = write_corpus(folder, **tables(items__title=[given, "b", "c"])).items["title"]
    assert titles[0].as_py() == kept
    assert plain_text(titles).equals(titles)


def test_title_of_100_kb_is_kept(folder: Path) -> None:
    title = "ü long title " * 8_000
    items = write_corpus(folder, **tables(items__title=[title, "b", "c"])).items
    assert items["title"][0].as_py() == title.strip()


def test_field_text_is_tidied_and_empty_text_is_none(folder: Path) -> None:
    items = write_corpus(
        folder,
        **tables(
            items__genres=[["War", " War\n", "", None], [" "], None],
            items__blurb=["a\nb", "\t", None],
        ),
    ).items
    assert items["genres"].to_pylist() == [["War"], [], None]
    assert items["blurb"].to_pylist() == ["a b", None, None]


def test_ids_are_kept_character_for_character(folder: Path) -> None:
    ids = ["007", " 7", "ключ\n😀"]
    corpus = write_corpus(
        folder, **tables(items__item_id=ids, events__item_id=[ids[0], ids[0], ids[1], ids[2]])
    )
    assert corpus.items["item_id"].to_pylist() == ids
    assert corpus.event_item_E.tolist() == [0, 2, 1, 0]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "table", "row", "column", "value", "message"),
    [
        ({"items__item_id": ["i1", "i2", "i1"]}, "items", 3, "item_id", "i1", "already in row 1"),
        ({"users__user_id": ["u2", "u2"]}, "users", 2, "user_id", "u2", "already in row 1"),
        ({"items__item_id": ["i1", None, "i3"]}, "items", 2, "item_id", None, "id is missing"),
        ({"items__item_id": ["i1", "", "i3"]}, "items", 2, "item_id", "", "id is missing"),
        ({"items__title": ["a", " \n", "c"]}, "items", 2, "title", "", "title is missing"),
        ({"items__title": ["a", "b", None]}, "items", 3, "title", None, "title is missing"),
        (
            {"events__item_id": ["i1", "i9", "i2", "i8"]},
            "events",
            2,
            "item_id",
            "i9",
            "unknown item",
        ),
        (
            {"events__user_id": ["u1", "u2", "u9", "u2"]},
            "events",
            3,
            "user_id",
            "u9",
            "unknown user",
        ),
        (
            {"events__user_id": ["u1", "u2", None, "u2"]},
            "events",
            3,
            "user_id",
            None,
            "id is missing",
        ),
        ({"events__action": ["r", "r", "r", ""]}, "events", 4, "action", "", "action is missing"),
        ({"events__timestamp": [1, None, 2, 3]}, "events", 2, "timestamp", None, "is missing"),
        ({"events__timestamp": [1, 2, -1, 3]}, "events", 3, "timestamp", None, "before 1970"),
    ],
)
def test_bad_value_names_row_and_column(
    folder: Path,
    changes: dict[str, Any],
    table: str,
    row: int,
    column: str,
    value: object,
    message: str,
) -> None:
    error = refused(folder, tables(**changes))
    assert message in error.message
    assert (error.file, error.row, error.column) == (f"table {table}", row, column)
    if value is not None:
        assert error.value == value


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["items__price", "items__year", "events__value"])
def test_nan_is_refused(folder: Path, key: str, bad: float) -> None:
    values = pa.array([1990.0, bad, 1990.0, 1990.0][: 3 if key.startswith("items") else 4])
    error = refused(folder, tables(**{key: values}))
    assert "not a finite number" in error.message
    assert (error.row, error.column) == (2, key.partition("__")[2])
    assert "empty" in str(error.remedy)


@pytest.mark.parametrize("bad", [1995.5, 0.0, 123456.0])
def test_year_must_be_one(folder: Path, bad: float) -> None:
    error = refused(folder, tables(items__year=[1990.0, None, bad]))
    assert "not a year" in error.message
    assert (error.row, error.column, error.value) == (3, "year", bad)


def test_event_in_the_future_is_refused(folder: Path) -> None:
    soon = int(time.time() * 1000) + DAY // 2
    write_corpus(folder.parent / "soon", **tables(events__timestamp=[1, 2, 3, soon]))
    later = soon + DAY
    with pytest.raises(DataError, match="in the future") as caught:
        write_corpus(folder, **tables(events__timestamp=[1, 2, 3, later]))
    assert caught.value.row == 4
    assert not folder.exists()


def test_duplicate_event_names_both_rows(folder: Path) -> None:
    error = refused(
        folder,
        tables(
            events__user_id=["u1", "u2", "u1", "u2"],
            events__item_id=["i1", "i1", "i2", "i1"],
            events__value=[1.0, 2.0, 3.0, 4.0],  # another value is no excuse
        ),
    )
    assert "already in row 2" in error.message
    assert "(1 such events)" in error.message
    assert error.row == 4
    assert "u2, i1, 1970-01-06" in str(error.value)
    assert "duplicates: drop" in str(error.remedy)


def test_another_action_at_the_same_moment_is_another_event(folder: Path) -> None:
    write_corpus(
        folder,
        **tables(
            events__item_id=["i1", "i1", "i2", "i1"],
            events__action=["seen", "seen", "seen", "bought"],
        ),
    )


@pytest.mark.parametrize("name", ["items", "users", "events"])
def test_empty_table_is_refused(folder: Path, name: str) -> None:
    arguments = tables()
    arguments[name] = arguments[name].slice(0, 0)
    error = refused(folder, arguments)
    assert error.message == f"there is not one {name[:-1]}"
    assert error.file == f"table {name}"


def test_missing_and_undeclared_columns_are_refused(folder: Path) -> None:
    arguments = tables()
    arguments["events"] = arguments["events"].drop_columns(["timestamp"])
    error = refused(folder, arguments)
    assert error.column == "timestamp"
    assert "user_id, item_id, action, value" in error.message
    error = refused(folder, tables(items__colour=["red"] * 3))
    assert "colour" in error.message


def test_wrong_type_is_refused(folder: Path) -> None:
    error = refused(folder, tables(items__price=["1.5", "dear", "2"]))
    assert error.column == "price"
    assert "dear" in error.message


@pytest.mark.parametrize("name", ["title", "item_id", "two words", "", "1st"])
def test_field_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a field"):
        Field(name=name, kind="text")


def test_field_kind_lists_the_right_ones() -> None:
    with pytest.raises(ValueError, match="text, category, categories, number, year"):
        Field(name="a", kind="tags")  # type: ignore[arg-type]


def test_repeated_events_are_all_but_the_first() -> None:
    rng = np.random.default_rng(0)
    keys = [rng.integers(0, 3, 200).astype(np.int32) for _ in range(4)]
    seen: set[tuple[int, ...]] = set()
    expected = []
    for key in zip(*keys, strict=True):
        expected.append(key in seen)
        seen.add(key)
    user, item, moment, action = keys
    found = repeated_events(user, item, moment.astype(np.int64), action)
    assert found.tolist() == expected


# --- disk ----------------------------------------------------------------------------------------


def test_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    error = refused(folder, tables())
    assert "no space left" in error.message
    assert error.file == str(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 kB; only root can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_really_full_disk_leaves_nothing(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    titles = [rng.bytes(200_000).hex() for _ in range(3)]
    error = refused(small_disk / "corpus", tables(items__title=titles))
    assert "no space left" in error.message


# --- damaged folders -----------------------------------------------------------------------------

FILES = ("corpus.json", "items.parquet", "users.parquet", "events.parquet")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    write_corpus(folder, **tables())
    (folder / name).unlink()
    with pytest.raises(DataError, match="missing") as caught:
        Corpus.open(folder)
    assert caught.value.file == str(folder / name)
    assert caught.value.remedy


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_truncated_file_is_named(folder: Path, name: str, keep: float) -> None:
    write_corpus(folder, **tables())
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match="cannot be read") as caught:
        Corpus.open(folder)
    assert caught.value.file == str(folder / name)


def test_damage_inside_a_file_is_found_by_verify(folder: Path) -> None:
    write_corpus(folder, **tables(items__title=["a" * 5000, "b", "c"]))
    path = folder / "items.parquet"
    content = bytearray(path.read_bytes())
    content[10:60] = bytes(50)
    path.write_bytes(content)
    corpus = Corpus.open(folder)  # the footer is whole
    with pytest.raises(DataError) as caught:
        corpus.verify()
    assert str(folder) in str(caught.value.file)


def test_changed_value_is_found_by_verify(folder: Path) -> None:
    corpus = write_corpus(folder, **tables())
    changed = corpus.users.set_column(1, "age", pa.array([20.0, 21.0]))
    pq.write_table(changed.cast(corpus.users.schema), folder / "users.parquet")
    with pytest.raises(DataError, match="fingerprint"):
        Corpus.open(folder, verify=True)


def test_table_of_another_corpus_is_found(folder: Path) -> None:
    corpus = write_corpus(folder, **tables())
    pq.write_table(corpus.users.slice(0, 1), folder / "users.parquet")
    with pytest.raises(DataError, match="promises 2 rows"):
        Corpus.open(folder)


def test_corpus_of_another_version_is_refused(folder: Path) -> None:
    write_corpus(folder, **tables())
    card = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**card, "schema_version": 99}))
    with pytest.raises(DataError, match="version 99"):
        Corpus.open(folder)


def test_folder_that_is_no_corpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a corpus"):
        Corpus.open(tmp_path / "nowhere")


# --- fingerprint ---------------------------------------------------------------------------------


def test_fingerprint_ignores_encoding_and_given_order(folder: Path) -> None:
    corpus = write_corpus(folder, **tables())
    arguments = tables()
    arguments["events"] = arguments["events"].take([2, 1, 3, 0])  # ties keep their order
    again = write_corpus(folder.parent / "again", **arguments)
    assert again.fingerprint == corpus.fingerprint
    for name in ("items", "users", "events"):
        table = pq.read_table(again.folder / f"{name}.parquet")
        pq.write_table(
            table, again.folder / f"{name}.parquet", compression="gzip", row_group_size=1
        )
    Corpus.open(again.folder, verify=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"items__title": ["One", "Two", "Thre3"]},
        {"items__title": ["OneT", "wo", "Three"]},
        {"items__genres": [["Action"], ["War"], None]},
        {"items__genres": [["Action", "War"], None, []]},
        {"items__genres": [["ActionWar"], [], None]},
        {"items__price": [1.5, None, 2.5]},
        {"items__price": [1.5, 2.5, 0.0]},
        {"users__age": [20.0, 0.0]},
        {"events__value": [1.0, 2.0, 0.0, 2.0]},
        {"events__timestamp": [3 * DAY, 5 * DAY, 2 * DAY + 1, 5 * DAY]},
        {"events__request_id": ["a", "b", "c", "d"]},
    ],
)
def test_fingerprint_sees_every_value(folder: Path, changes: dict[str, Any]) -> None:
    one = write_corpus(folder, **tables())
    other = write_corpus(folder.parent / "other", **tables(**changes))
    assert one.fingerprint != other.fingerprint


def test_fingerprint_sees_field_declarations(folder: Path) -> None:
    one = write_corpus(folder, **tables())
    arguments = tables()
    arguments["item_fields"] = (*FIELDS[:3], Field(name="blurb", kind="category"))
    assert write_corpus(folder.parent / "other", **arguments).fingerprint != one.fingerprint


def test_content_hash_is_blind_to_chunks_and_slices() -> None:
    schema = pa.schema(
        [("a", pa.string()), ("b", pa.list_(pa.string())), ("c", pa.float64()), ("d", pa.string())]
    )
    rows = [
        {
            "a": "x" * n if n % 3 else None,
            "b": ["p", "qq"][: n % 3],
            "c": n / 7 if n % 4 else None,
            "d": f"d{n}",
        }
        for n in range(50)
    ]
    whole = pa.Table.from_pylist(rows, schema=schema)

    def digest(*pieces: pa.Table) -> str:
        hasher = content_hash.TableHash(schema)
        for piece in pieces:
            hasher.update(piece)
        return hasher.hexdigest()

    cut = [whole.slice(0, 7), whole.slice(7, 0), whole.slice(7, 20), whole.slice(27)]
    assert digest(whole) == digest(*cut) == digest(pa.concat_tables(cut))
    assert digest(whole) != digest(whole.slice(1))
