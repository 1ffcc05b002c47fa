"""Event fields, unknown times and the optional tables: what is refused, kept and hashed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import corpus_coding
from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_checks import plain_labels, plain_text, repeated_rows
from data_pipeline.corpus_schema import OPTIONAL_TABLES
from data_pipeline.errors import DataError

DAY = 86_400_000
FIELDS = (
    Field(name="review", kind="text"),
    Field(name="recommended", kind="category"),
    Field(name="hours", kind="number"),
)
OPTIONAL: dict[str, dict[str, list[Any]]] = {
    "queries": {"query_id": ["q1", "q2", "q3"], "text": ["red tea", "cup", "cup"]},
    "judgements": {
        "query_id": ["q1", "q1", "q2"],
        "item_id": ["i1", "i2", "i1"],
        "grade": [1.0, 0.0, 0.5],
        "label": ["exact", None, "substitute"],
        "split": ["train", "train", "test"],
    },
    "searches": {
        "user_id": ["u1", "u2", "u1", "u1"],
        "query_id": ["q1", "q2", "q1", "q3"],
        "timestamp": [4 * DAY, 2 * DAY, 4 * DAY, 3 * DAY],
        "item_id": ["i1", None, "i2", "i3"],
        "action": ["clicked", "clicked", "skipped", "bought"],
        "request_id": ["r", None, "r", None],
        "position": [1.0, None, 2.0, None],
    },
    "tags": {
        "item_id": ["i1", "i1", "i2"],
        "tag": ["green", "green", "hot"],
        "user_id": ["u1", None, None],
        "timestamp": [DAY, None, None],
        "weight": [None, 0.25, 3.0],
    },
    "links": {
        "item_id": ["i1", "i2"],
        "other_id": ["i2", "i1"],
        "relation": ["similar", "also_bought"],
        "weight": [None, 2.0],
    },
}
IDS = {"user_id", "item_id", "query_id", "other_id"}


def tables(**changes: Any) -> dict[str, Any]:
    """Arguments of `write_corpus`; `tags__tag=[...]` replaces a column, `tags=None` a table."""
    content: dict[str, Any] = {
        "items": {"item_id": ["i1", "i2", "i3"], "title": ["One", "Two", "Three"]},
        "users": {"user_id": ["u2", "u1"]},
        "events": {
            "user_id": ["u1", "u2", "u1"],
            "item_id": ["i1", "i1", "i2"],
            "timestamp": [3 * DAY, 5 * DAY, 2 * DAY],
            "action": ["rated"] * 3,
            "review": ["fine", "bad\nold", "\t"],
            "recommended": [" yes ", None, "no"],
            "hours": [1.5, None, 3.0],
        },
        **{name: dict(columns) for name, columns in OPTIONAL.items()},
    }
    for key, values in changes.items():
        table, _, column = key.partition("__")
        if not column:
            content[table] = values
        else:
            content[table][column] = values
    return {
        "name": "toy",
        "event_fields": FIELDS,
        **{name: None if rows is None else _table(rows) for name, rows in content.items()},
    }


def _table(columns: dict[str, Any]) -> pa.Table:
    times = columns.get("timestamp")
    if isinstance(times, list):
        columns = {**columns, "timestamp": pa.array(times, pa.timestamp("ms", "UTC"))}
    return pa.table(columns)


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


def optional(corpus: Corpus, name: str) -> list[dict[str, Any]]:
    table = corpus.table(name)
    assert table is not None
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


# --- what is written -----------------------------------------------------------------------------


def test_everything_is_kept_and_counted(folder: Path) -> None:
    corpus = Corpus.open(write_corpus(folder, **tables()).folder, verify=True)
    assert corpus.card.counts == {
        "items": 3,
        "users": 2,
        "events": 3,
        "queries": 3,
        "judgements": 3,
        "searches": 4,
        "tags": 3,
        "links": 2,
    }
    assert corpus.card.event_fields == FIELDS
    assert corpus.card.has_times
    for name in ("queries", "judgements", "tags", "links"):
        given = tables()[name].cast(OPTIONAL_TABLES[name].schema)
        assert corpus.table(name).equals(given), name  # type: ignore[union-attr]


def test_event_fields_are_tidied_and_follow_their_events(folder: Path) -> None:
    events = write_corpus(folder, **tables()).events
    assert events.column_names[6:] == ["review", "recommended", "hours"]
    assert events["item_id"].to_pylist() == ["i1", "i2", "i1"]
    assert events["review"].to_pylist() == ["bad old", None, "fine"]
    assert events["recommended"].to_pylist() == [None, "no", "yes"]
    assert events["hours"].to_pylist() == [None, 3.0, 1.5]


def test_searches_stand_by_user_then_time_then_given_order(folder: Path) -> None:
    rows = optional(write_corpus(folder, **tables()), "searches")
    assert [(row["user_id"], row["query_id"], row["item_id"]) for row in rows] == [
        ("u2", "q2", None),
        ("u1", "q3", "i3"),
        ("u1", "q1", "i1"),
        ("u1", "q1", "i2"),
    ]
    assert [row["position"] for row in rows] == [None, None, 1.0, 2.0]


@pytest.mark.parametrize("name", ["judgements", "searches", "tags", "links"])
def test_absent_and_empty_tables_are_none(folder: Path, name: str) -> None:
    corpus = write_corpus(folder, **tables(**{name: None}))
    assert corpus.table(name) is None
    assert name not in corpus.card.counts
    assert not (folder / f"{name}.parquet").exists()
    arguments = tables()
    arguments[name] = arguments[name].slice(0, 0)
    assert write_corpus(folder.parent / "empty", **arguments).fingerprint == corpus.fingerprint


def test_columns_that_may_be_missing_may_be_left_out(folder: Path) -> None:
    arguments = tables()
    for name, spec in OPTIONAL_TABLES.items():
        needed = [field.name for field in spec.schema if not field.nullable]
        arguments[name] = arguments[name].select(
            [*needed, "timestamp"] if name == "searches" else needed
        )
    arguments["tags"] = arguments["tags"].slice(1)
    assert optional(write_corpus(folder, **arguments), "links")[1]["weight"] is None


def test_judged_queries_need_neither_users_nor_events(folder: Path) -> None:
    arguments = {**tables(searches=None, tags=None), "event_fields": ()}
    del arguments["users"], arguments["events"]
    corpus = write_corpus(folder, **arguments)
    assert (corpus.card.counts["users"], corpus.card.counts["events"]) == (0, 0)
    assert not corpus.card.has_times
    assert corpus.user_offsets_U1.tolist() == [0]
    assert len(corpus.time_E) == len(corpus.event_item_E) == 0
    corpus.verify()


def test_something_must_be_said_of_the_items(folder: Path) -> None:
    arguments = tables(judgements=None, searches=None, tags=None, links=None)
    arguments["events"] = arguments["events"].slice(0, 0)
    assert refused(folder, arguments).message == "there is not one event"


def test_events_need_users(folder: Path) -> None:
    arguments = tables()
    arguments["users"] = arguments["users"].slice(0, 0)
    assert refused(folder, arguments).message == "there is not one user"


def test_other_names_are_no_tables(folder: Path) -> None:
    with pytest.raises(ValueError, match="choose of items, users, events, queries, judgements"):
        write_corpus(folder, **tables()).table("ratings")


def test_columns_can_be_read_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(folder, **tables())
    asked: list[Any] = []
    read = pq.read_table

    def noted(path: Path, *, columns: list[str] | None, **rest: Any) -> pa.Table:
        asked.append((path.name, columns))
        return read(path, columns=columns, **rest)

    monkeypatch.setattr(pq, "read_table", noted)
    assert corpus.event_item_E.tolist() == [0, 1, 0]
    assert corpus.time_E.tolist() == [5 * DAY, 2 * DAY, 3 * DAY]
    assert ("events.parquet", None) not in asked  # reviews stay on disk
    (batch,) = corpus.batches("events", ["hours"])
    assert batch.to_pydict() == {"hours": [None, 3.0, 1.5]}


def test_long_texts_are_read_from_a_mapped_file_piece_by_piece(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many chunks on disk, sorted into pieces that are smaller still."""
    n = 200
    rng = np.random.default_rng(0)
    events = pa.table(
        {
            "user_id": rng.choice(["u1", "u2"], n),
            "item_id": ["i1"] * n,
            "timestamp": pa.array(rng.permutation(n), pa.timestamp("ms", "UTC")),
            "action": ["rated"] * n,
            "review": [f" review {row}\n" if row % 3 else None for row in range(n)],
        }
    )
    path = folder.parent / "events.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, events.schema) as writer:
        writer.write_table(events, max_chunksize=7)
    mapped = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert mapped["review"].num_chunks > 20
    arguments = {**tables(), "event_fields": FIELDS[:1]}
    whole = write_corpus(folder, **{**arguments, "events": events})
    monkeypatch.setattr(corpus_coding, "ROWS_PER_PIECE", 16)
    pieces = write_corpus(tmp_path / "pieces", **{**arguments, "events": mapped})
    assert pieces.fingerprint == whole.fingerprint
    kept = dict(zip(whole.time_E.tolist(), whole.events["review"].to_pylist(), strict=True))
    for row in range(n):
        time = int(events["timestamp"].cast(pa.int64())[row].as_py())
        assert kept[time] == (f"review {row}" if row % 3 else None)


# --- times ---------------------------------------------------------------------------------------


def test_times_may_be_unknown_throughout(folder: Path) -> None:
    corpus = write_corpus(
        folder, **tables(events__timestamp=[None] * 3, searches__timestamp=[None] * 4)
    )
    assert not corpus.card.has_times
    assert corpus.time_E.tolist() == [-1] * 3
    assert corpus.events["item_id"].to_pylist() == ["i1", "i1", "i2"]  # by user, then as given
    assert [row["query_id"] for row in optional(corpus, "searches")] == ["q2", "q1", "q1", "q3"]
    corpus.verify()


def test_times_known_in_part_are_refused(folder: Path) -> None:
    error = refused(folder, tables(events__timestamp=[DAY, None, DAY]))
    assert (error.file, error.row, error.column) == ("table events", 2, "timestamp")
    assert "leave out all times" in str(error.remedy)
    error = refused(folder, tables(searches__timestamp=[DAY, DAY, None, DAY]))
    assert (error.file, error.row) == ("table searches", 3)


def test_searches_have_times_where_events_have(folder: Path) -> None:
    assert refused(folder, tables(searches__timestamp=[None] * 4)).row == 1
    write_corpus(folder, **tables(events__timestamp=[None] * 3))  # the other way round is fine


def test_the_column_of_times_cannot_be_forgotten(folder: Path) -> None:
    arguments = tables()
    arguments["events"] = arguments["events"].drop_columns(["timestamp"])
    assert refused(folder, arguments).column == "timestamp"


def test_without_times_requests_tell_events_apart(folder: Path) -> None:
    rows: dict[str, Any] = {
        "events__timestamp": [None] * 3,
        "events__item_id": ["i1", "i1", "i1"],
        "searches__timestamp": [None] * 4,
    }
    error = refused(folder, tables(**rows))
    assert "the same user, item and action stand already in row 1" in error.message
    assert "by time" not in str(error.remedy)
    write_corpus(folder, **tables(**rows, events__request_id=["a", "a", "b"]))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "row", "column", "message"),
    [
        ({"queries__query_id": ["q1", "q2", "q1"]}, 3, "query_id", "already in row 1"),
        ({"queries__text": ["a", " \x00", "c"]}, 2, "text", "the text is missing"),
        ({"queries__text": ["a", "b", None]}, 3, "text", "the text is missing"),
        ({"judgements__query_id": ["q1", "q9", "q2"]}, 2, "query_id", "unknown query"),
        ({"judgements__item_id": ["i1", "i2", "i9"]}, 3, "item_id", "unknown item"),
        ({"judgements__item_id": ["i1", "i2", ""]}, 3, "item_id", "the id is missing"),
        ({"judgements__grade": [1.0, None, 0.5]}, 2, "grade", "the grade is missing"),
        ({"judgements__grade": [1.0, float("nan"), 0.5]}, 2, "grade", "not a finite number"),
        ({"judgements__split": ["train", "dev", None]}, 2, "split", "none of train, validation"),
        ({"searches__user_id": ["u1", "u9", "u1", "u1"]}, 2, "user_id", "unknown user"),
        ({"searches__query_id": ["q1", "q2", "q8", "q9"]}, 3, "query_id", "2 such searches"),
        ({"searches__item_id": ["i1", "", "i2", "i3"]}, 2, "item_id", "unknown item"),
        ({"searches__action": ["a", "b", "\t", "d"]}, 3, "action", "the action is missing"),
        ({"searches__timestamp": [1, 2, 3, -1]}, 4, "timestamp", "the search is before 1970"),
        ({"searches__position": [1.0, float("inf"), 2.0, 3.0]}, 2, "position", "not a finite"),
        ({"tags__tag": ["a", "", "c"]}, 2, "tag", "the tag is missing"),
        ({"tags__item_id": ["i1", "i7", "i2"]}, 2, "item_id", "unknown item"),
        ({"tags__user_id": ["u1", "u7", None]}, 2, "user_id", "the tag refers to an unknown user"),
        ({"tags__timestamp": [1, 10**14, None]}, 2, "timestamp", "the tag is in the future"),
        ({"tags__weight": [None, float("nan"), 1.0]}, 2, "weight", "not a finite number"),
        ({"links__other_id": ["i2", "i9"]}, 2, "other_id", "an unknown item, one that table items"),
        ({"links__other_id": ["i2", "i2"]}, 2, "other_id", "linked to itself (1 such links)"),
        ({"links__relation": ["similar", None]}, 2, "relation", "the relation is missing"),
    ],
)
def test_bad_value_names_row_and_column(
    folder: Path, changes: dict[str, Any], row: int, column: str, message: str
) -> None:
    (key,) = changes
    if isinstance(changes[key][0], float):
        changes = {key: pa.array(changes[key])}
    error = refused(folder, tables(**changes))
    assert message in error.message
    name = key.partition("__")[0]
    assert (error.file, error.row, error.column) == (f"table {name}", row, column)


@pytest.mark.parametrize("name", ["judgements", "searches", "tags", "links"])
def test_row_that_stands_twice_names_both(folder: Path, name: str) -> None:
    arguments = tables()
    arguments[name] = pa.concat_tables([arguments[name], arguments[name].slice(1, 1)])
    error = refused(folder, arguments)
    assert "stand already in row 2 of" in error.message
    assert error.row == len(arguments[name])
    assert f"(1 such {name})" in error.message


@pytest.mark.parametrize(
    "changes",
    [
        {"judgements__item_id": ["i1", "i1", "i1"]},  # two judges who do not agree
        {"tags__tag": ["green", "green", "green"], "tags__item_id": ["i1", "i1", "i2"]},
        {"links__other_id": ["i2", "i1"], "links__relation": ["similar", "similar"]},
    ],
)
def test_rows_that_differ_in_what_matters_are_kept(folder: Path, changes: dict[str, Any]) -> None:
    write_corpus(folder, **tables(**changes))


def test_judgements_without_queries_are_refused(folder: Path) -> None:
    error = refused(folder, tables(queries=None, searches=None))
    assert "unknown query, one that table queries does not list" in error.message


def test_errors_name_the_file_of_the_table(folder: Path) -> None:
    origin = Origin(files=("log.csv",), columns={"tag": "label"})
    arguments = tables(tags__tag=["a", None, "c"])
    error = refused(folder, {**arguments, "origins": {"tags": origin}})
    assert (error.file, error.row, error.column) == ("log.csv", 2, "label")


@pytest.mark.parametrize("kind", ["categories", "year"])
def test_kinds_that_events_cannot_have(folder: Path, kind: Any) -> None:
    arguments = {**tables(), "event_fields": (*FIELDS[1:], Field(name="review", kind=kind))}
    with pytest.raises(ValueError, match="an event's is one of text, category, number"):
        write_corpus(folder, **arguments)
    assert not folder.exists()


def test_undeclared_event_column_and_nan_are_refused(folder: Path) -> None:
    error = refused(folder, {**tables(), "event_fields": FIELDS[:2]})
    assert "no field declares: hours" in error.message
    error = refused(folder, tables(events__hours=pa.array([1.0, float("nan"), 2.0])))
    assert (error.row, error.column) == (2, "hours")


# --- any strings ---------------------------------------------------------------------------------

TEXT = st.text(max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=3, max_size=3), st.lists(TEXT, min_size=3, max_size=3))
def test_any_strings_are_kept_or_refused_alike_in_every_column(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], texts: list[str]
) -> None:
    """Ids stay as they are; texts are those of `plain_text`; nothing but a DataError is raised."""
    folder = tmp_path_factory.mktemp("any") / "corpus"
    arguments = tables(
        queries__query_id=ids,
        queries__text=texts,
        judgements__query_id=[ids[0], ids[0], ids[1]],
        judgements__label=texts,
        searches__query_id=[ids[0], ids[1], ids[0], ids[2]],
        tags__tag=texts,
        events__review=texts,
        events__recommended=texts,
    )
    tidy = plain_text(pa.chunked_array([pa.array(texts)])).to_pylist()
    or_none = [text or None for text in tidy]
    possible = len(set(ids)) == 3 and all(ids) and all(tidy)
    try:
        corpus = write_corpus(folder, **arguments)
    except DataError:
        assert not possible
        return
    assert possible
    corpus.verify()
    assert [row["query_id"] for row in optional(corpus, "queries")] == ids
    assert [row["text"] for row in optional(corpus, "queries")] == tidy
    assert [row["label"] for row in optional(corpus, "judgements")] == or_none
    assert [row["tag"] for row in optional(corpus, "tags")] == tidy
    assert corpus.events["review"].to_pylist() == [or_none[1], or_none[2], or_none[0]]
    assert corpus.events["recommended"].to_pylist() == [or_none[1], or_none[2], or_none[0]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(alphabet=" a\n\u2028😀|<", max_size=5))))
def test_labels_are_tidied_as_texts_are(texts: list[str | None]) -> None:
    column = pa.chunked_array([pa.array(texts[:3], pa.string()), pa.array(texts[3:], pa.string())])
    assert plain_labels(column).to_pylist() == plain_text(column).to_pylist()


def test_repeated_rows_are_all_but_the_first() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 4, 300) for _ in range(3)]
    seen: set[tuple[int, ...]] = set()
    expected = []
    for key in zip(*columns, strict=True):
        expected.append(key in seen)
        seen.add(key)
    assert repeated_rows(columns).tolist() == expected


# --- fingerprint and damage ----------------------------------------------------------------------


@pytest.mark.parametrize("table", [*OPTIONAL, "events"])
def test_fingerprint_sees_every_column(folder: Path, table: str) -> None:
    one = write_corpus(folder, **tables()).fingerprint
    columns = [name for name in tables()[table].column_names if name not in IDS]
    found = {one}
    for number, column in enumerate(columns):
        values = tables()[table][column].to_pylist()
        changed: Any = [*values[:-1], _another(column, values)]
        if column in ("grade", "weight", "position", "hours"):
            changed = pa.array(changed, pa.float64())
        other = write_corpus(
            folder.parent / str(number), **tables(**{f"{table}__{column}": changed})
        )
        found.add(other.fingerprint)
    assert len(found) == 1 + len(columns)


def _another(column: str, values: list[Any]) -> Any:
    if column == "timestamp":
        return values[0]
    if column == "split":
        return "validation"
    return 9.0 if column in ("grade", "weight", "position", "hours") else "other"


def test_fingerprint_of_plain_corpora_is_what_it_was(folder: Path) -> None:
    """Corpora without what schema 2 adds keep the fingerprint that schema 1 gave them."""
    plain = {"queries": None, "judgements": None, "searches": None, "tags": None, "links": None}
    arguments = {**tables(**plain), "event_fields": ()}
    arguments["events"] = arguments["events"].drop_columns([field.name for field in FIELDS])
    assert write_corpus(folder, **arguments).fingerprint == "adf3bcbd7e1a1916"


Damage = Callable[[Path], Any]


@pytest.mark.parametrize("name", [*OPTIONAL])
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-20])]
)
def test_damaged_table_is_named(folder: Path, name: str, damage: Damage) -> None:
    write_corpus(folder, **tables())
    damage(folder / f"{name}.parquet")
    with pytest.raises(DataError, match="fetch or import the corpus again") as caught:
        Corpus.open(folder)
    assert caught.value.file == str(folder / f"{name}.parquet")


def test_changed_table_is_found_by_verify(folder: Path) -> None:
    tags = write_corpus(folder, **tables()).table("tags")
    assert tags is not None
    pq.write_table(tags.take([0, 2, 1]), folder / "tags.parquet")
    with pytest.raises(DataError, match="fingerprint"):
        Corpus.open(folder, verify=True)


def test_corpus_of_schema_1_is_to_be_made_again(folder: Path) -> None:
    write_corpus(folder, **tables())
    card = json.loads((folder / "corpus.json").read_text())
    del card["event_fields"], card["has_times"]
    (folder / "corpus.json").write_text(json.dumps({**card, "schema_version": 1}))
    with pytest.raises(DataError, match="version 1, this program reads version 2") as caught:
        Corpus.open(folder)
    assert caught.value.remedy == "fetch or import the corpus again"
