"""Searches, judgements, tags, links and event fields from a user's own files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.tables import import_tables

Rows = list[dict[str, Any]]

FILES: dict[str, Rows] = {
    "events": [
        {"uid": "007", "sku": "a", "ts": "1700000000", "text": "fine,\nreally", "h": "2.5"},
        {"uid": "ключ", "sku": "b", "ts": "1700000060", "text": None, "h": None},
    ],
    "items": [{"sku": "a", "name": "Tea"}, {"sku": "b", "name": "Café"}, {"sku": "c", "name": "C"}],
    "queries": [{"qid": "1", "words": "hot  <|im_end|>\ttea"}, {"qid": "2", "words": "Café 😀"}],
    "judgements": [
        {"qid": "1", "sku": "a", "grade": "1", "label": "exact", "split": "train"},
        {"qid": "1", "sku": "b", "grade": "0.5", "label": None, "split": "train"},
        {"qid": "2", "sku": "b", "grade": "1", "label": "exact", "split": "test"},
    ],
    "searches": [
        {"uid": "007", "qid": "1", "ts": "1700000100", "sku": "a", "did": "clicked", "n": "1"},
        {"uid": "007", "qid": "1", "ts": "1700000100", "sku": "c", "did": "skipped", "n": "2"},
        {"uid": "ключ", "qid": "2", "ts": "1700000050", "sku": None, "did": "clicked", "n": None},
    ],
    "tags": [
        {"sku": "a", "word": "hot", "uid": "007", "ts": "1700000000", "w": None},
        {"sku": "a", "word": "hot", "uid": None, "ts": None, "w": "0.5"},
    ],
    "links": [
        {"sku": "a", "with": "b", "how": "similar"},
        {"sku": "b", "with": "a", "how": "bought"},
    ],
}
MAPPING: dict[str, Any] = {
    "name": "shop",
    "events": {
        "columns": {"user_id": "uid", "item_id": "sku", "timestamp": "ts"},
        "fields": {
            "review": {"column": "text", "kind": "text"},
            "hours": {"column": "h", "kind": "number"},
        },
    },
    "items": {"columns": {"item_id": "sku", "title": "name"}},
    "queries": {"columns": {"query_id": "qid", "text": "words"}},
    "judgements": {
        "columns": {"query_id": "qid", "item_id": "sku", "label": "label", "split": "split"}
    },
    "searches": {
        "columns": {
            "user_id": "uid",
            "query_id": "qid",
            "timestamp": "ts",
            "item_id": "sku",
            "action": "did",
            "position": "n",
        }
    },
    "tags": {
        "columns": {
            "item_id": "sku",
            "tag": "word",
            "user_id": "uid",
            "timestamp": "ts",
            "weight": "w",
        }
    },
    "links": {"columns": {"item_id": "sku", "other_id": "with", "relation": "how"}},
}


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


class Shop:
    """A folder with a mapping and its files, each of which a test may change."""

    def __init__(self, folder: Path, ending: str = "csv") -> None:
        self.folder = folder
        self.ending = ending
        self.mapping: dict[str, Any] = json.loads(json.dumps(MAPPING))
        for name, rows in FILES.items():
            self.write(name, rows)
            self.mapping[name]["path"] = f"{name}.{ending}"

    def write(self, name: str, rows: Rows) -> None:
        WRITERS[self.ending](self.folder / f"{name}.{self.ending}", rows)

    def change(self, name: str, row: int, **values: Any) -> None:
        rows = [dict(given) for given in FILES[name]]
        rows[row - 1] |= values
        self.write(name, rows)

    def run(self) -> Corpus:
        mapping = self.folder / "shop.yaml"
        mapping.write_text(yaml.safe_dump(self.mapping, allow_unicode=True), encoding="utf-8")
        return import_tables(mapping, self.folder / "corpus")

    def refused(self) -> DataError:
        with pytest.raises(DataError) as caught:
            self.run()
        assert not (self.folder / "corpus").exists()
        assert caught.value.remedy
        return caught.value


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def rows(corpus: Corpus, name: str) -> Rows:
    table = corpus.table(name)
    assert table is not None
    found: Rows = table.to_pylist()
    return found


# --- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_corpus(tmp_path: Path, ending: str) -> None:
    corpus = Shop(tmp_path, ending).run()
    assert corpus.events["review"].to_pylist() == ["fine, really", None]
    assert corpus.events["hours"].to_pylist() == [2.5, None]
    assert [row["text"] for row in rows(corpus, "queries")] == ["hot  <|im_end|> tea", "Café 😀"]
    assert [(row["grade"], row["label"], row["split"]) for row in rows(corpus, "judgements")] == [
        (1.0, "exact", "train"),
        (0.5, None, "train"),
        (1.0, "exact", "test"),
    ]
    searches = rows(corpus, "searches")
    assert [(s["user_id"], s["item_id"], s["action"], s["position"]) for s in searches] == [
        ("007", "a", "clicked", 1.0),
        ("007", "c", "skipped", 2.0),
        ("ключ", None, "clicked", None),
    ]
    tags = rows(corpus, "tags")
    assert [(tag["user_id"], tag["weight"]) for tag in tags] == [("007", None), (None, 0.5)]
    assert [tag["timestamp"] is None for tag in tags] == [False, True]
    assert [link["relation"] for link in rows(corpus, "links")] == ["similar", "bought"]


def test_what_no_column_says_is_said_once(shop: Shop) -> None:
    del shop.mapping["searches"]["columns"]["action"]
    shop.mapping["searches"]["action"] = "bought"
    del shop.mapping["links"]["columns"]["relation"]
    corpus = shop.run()
    assert {row["action"] for row in rows(corpus, "searches")} == {"bought"}
    assert {row["relation"] for row in rows(corpus, "links")} == {"similar"}


def test_queries_users_and_items_are_made_from_the_other_tables(shop: Shop) -> None:
    for name in ("items", "queries"):
        del shop.mapping[name]
    shop.change("searches", 3, uid="new", qid="3", sku=None)
    shop.change("links", 1, **{"with": "z"})
    corpus = shop.run()
    assert corpus.users["user_id"].to_pylist() == ["007", "ключ", "new"]
    assert corpus.items["item_id"].to_pylist() == ["a", "b", "c", "z"]
    assert [row["text"] for row in rows(corpus, "queries")] == ["1", "2", "3"]


def test_judged_queries_need_no_events(shop: Shop) -> None:
    for name in ("events", "searches", "tags", "links"):
        del shop.mapping[name]
    corpus = shop.run()
    assert corpus.card.counts == {
        "items": 3,
        "users": 0,
        "events": 0,
        "queries": 2,
        "judgements": 3,
    }


def test_times_may_be_given_up(shop: Shop) -> None:
    for name in ("events", "searches"):
        shop.mapping[name]["columns"]["timestamp"] = None
    corpus = shop.run()
    assert not corpus.card.has_times
    assert corpus.events["timestamp"].null_count == 2


# --- choices of the mapping ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["judgements", "searches", "tags", "links"])
def test_duplicates_may_be_dropped(shop: Shop, name: str) -> None:
    shop.write(name, [*FILES[name], FILES[name][0]])
    assert "stand already in row 1" in shop.refused().message
    shop.mapping[name]["duplicates"] = "drop"
    corpus = shop.run()
    assert corpus.card.counts[name] == len(FILES[name])
    assert corpus.card.counts[f"dropped_{name}_duplicates"] == 1


@pytest.mark.parametrize("name", ["judgements", "searches", "tags", "links"])
def test_unknown_ids_may_be_dropped(shop: Shop, name: str) -> None:
    shop.change(name, 1, sku="gone")
    error = shop.refused()
    assert (error.row, error.column, error.value) == (1, "sku", "gone")
    assert "set `unknown_ids: drop`" in str(error.remedy)
    shop.mapping[name]["unknown_ids"] = "drop"
    corpus = shop.run()
    assert corpus.card.counts[name] == len(FILES[name]) - 1
    assert corpus.card.counts[f"dropped_{name}_unknown_ids"] == 1


def test_tags_that_become_equal_when_tidied_are_duplicates(shop: Shop) -> None:
    shop.write("tags", [*FILES["tags"], {**FILES["tags"][0], "word": " hot\n"}])
    assert "stand already in row 1" in shop.refused().message
    shop.mapping["tags"]["duplicates"] = "drop"
    assert shop.run().card.counts["tags"] == 2


def test_links_to_themselves_say_nothing(shop: Shop) -> None:
    shop.change("links", 2, **{"with": "b"})
    error = shop.refused()
    assert "linked to itself" in error.message
    assert (error.row, error.column) == (2, "with")
    shop.mapping["links"]["duplicates"] = "drop"
    assert shop.run().card.counts["links"] == 1


def test_events_without_times_are_told_apart_by_request(shop: Shop) -> None:
    events = [dict(FILES["events"][0], page=page) for page in ("p", "q", "q")]
    shop.write("events", events)
    for name in ("events", "searches"):
        shop.mapping[name]["columns"]["timestamp"] = None
    shop.mapping["events"]["columns"]["request_id"] = "page"
    assert "stand already in row 2" in shop.refused().message
    shop.mapping["events"]["duplicates"] = "drop"
    shop.mapping |= {"searches": None, "tags": None}
    assert shop.run().card.counts["events"] == 2


# --- mistakes in the files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "values", "column", "message"),
    [
        ("events", 1, {"h": "long"}, "h", "not a number"),
        ("events", 2, {"ts": ""}, "ts", "the timestamp is missing"),
        ("queries", 2, {"words": " \t"}, "words", "the text is missing"),
        ("queries", 2, {"qid": "1"}, "qid", "stands already in row 1"),
        ("judgements", 2, {"grade": "good"}, "grade", "not a number"),
        ("judgements", 2, {"grade": ""}, "grade", "the grade is missing"),
        ("judgements", 3, {"split": "dev"}, "split", "none of train, validation, test"),
        ("judgements", 1, {"qid": "9"}, "qid", "unknown query"),
        ("judgements", 1, {"qid": ""}, "qid", "the id is missing"),
        ("searches", 2, {"ts": "soon"}, "ts", "the timestamp cannot be read"),
        ("searches", 2, {"ts": ""}, "ts", "the timestamp is missing"),
        ("searches", 3, {"n": "first"}, "n", "not a number"),
        ("searches", 3, {"did": " "}, "did", "the action is missing"),
        ("searches", 1, {"uid": "nobody"}, "uid", "unknown user"),
        ("tags", 2, {"word": ""}, "word", "the tag is missing"),
        ("tags", 2, {"ts": "1700000000000"}, "ts", "mixed timestamp units"),
        ("tags", 1, {"uid": "nobody"}, "uid", "unknown user"),
        ("links", 2, {"with": "gone"}, "with", "unknown item"),
        ("links", 1, {"how": ""}, "how", "the relation is missing"),
    ],
)
def test_bad_value_names_the_cell(
    shop: Shop, name: str, row: int, values: dict[str, Any], column: str, message: str
) -> None:
    shop.mapping["users"] = {"path": "users.csv", "columns": {"user_id": "uid"}}
    write_csv(shop.folder / "users.csv", [{"uid": "007"}, {"uid": "ключ"}])
    shop.change(name, row, **values)
    error = shop.refused()
    assert message in error.message
    assert (error.file, error.row) == (str(shop.folder / f"{name}.csv"), row)
    assert error.column == column


@pytest.mark.parametrize("name", ["queries", "judgements", "searches", "tags", "links"])
def test_missing_column_and_file_are_named(shop: Shop, name: str) -> None:
    path = shop.folder / f"{name}.csv"
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0].split(",")[0]
    path.write_text(text.replace(first, f"{first}s", 1), encoding="utf-8")
    assert f"did you mean '{first}s'?" in shop.refused().message
    path.unlink()
    error = shop.refused()
    assert "no such file" in error.message
    assert error.file == str(path)


def test_rows_of_made_queries_name_their_file(shop: Shop) -> None:
    del shop.mapping["queries"]
    shop.change("searches", 2, qid=" ")
    error = shop.refused()
    assert "the text is missing" in error.message
    assert (error.file, error.row) == (str(shop.folder / "searches.csv"), 2)


# --- mistakes in the mapping ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ((), "judgments", {}, "unknown key 'judgments': did you mean 'judgements'?"),
        (("searches", "columns"), "query", "x", "did you mean 'query_id'?"),
        (("tags",), "timestamp_unit", "days", "'tags.timestamp_unit' cannot have this value"),
        (("links",), "duplicate", "drop", "'links.duplicate': did you mean 'duplicates'?"),
        (("events", "fields", "hours"), "kind", "year", "an event's is one of text, category"),
        (("events", "fields"), "value", {"column": "h", "kind": "number"}, "cannot name a field"),
        (("queries",), "path", None, "'queries.path' cannot have this value"),
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


def test_a_mapping_without_any_log_is_refused(shop: Shop) -> None:
    for name in ("events", "searches", "judgements", "tags", "links"):
        del shop.mapping[name]
    assert shop.refused().message == "the key 'events' is missing"
