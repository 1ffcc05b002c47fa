"""Semanlink in its own format: JSON of pages and tags, out of a source archive."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.build_config import BuildConfig
from data_pipeline.described import describe
from data_pipeline.errors import DataError
from data_pipeline.sources.semanlink import Semanlink
from data_pipeline.splits import split_corpus
from data_pipeline.tasks import all_tasks, applicable

TAG = "http://www.semanlink.net/tag/"
COUNTS = {"pages": 6, "tags in use": 3, "queries": 1}


def page(number: int, tags: list[str], **values: Any) -> dict[str, Any]:
    """A page as the file has it; all keys are there, empty where nothing is known."""
    return {
        "document": f"http://www.x.org/{number}",
        "tag": [TAG + tag for tag in tags],
        "comment": "",
        "title": f"Page {number}",
        "relatedDoc": [],
        "creationTime": f"2019-10-28T11:44:5{number}Z",
        "creationDate": "2019-10-28",
        "bookmarkOf": [],
        "arxiv_author": [],
        "arxiv_summary": "",
        "arxiv_title": "",
        **values,
    }


PAGES = [
    page(0, ["bert", "nlp"], title="[1810.04805] BERT", arxiv_author=["J. Devlin", "M. Chang"],
         arxiv_summary="We introduce\n BERT.", bookmarkOf=["https://arxiv.org/abs/1810.04805"]),
    page(1, ["bert", "bert"], comment="See <br/> here", relatedDoc=["http://www.x.org/0",
         "http://elsewhere.org"]),
    page(2, ["bert"], creationTime="", creationDate="2005-10-19"),
    page(3, ["bert"], title=""),
    page(4, ["bert", "rdf"], title="", arxiv_title="On RDF"),
    page(5, []),
]  # fmt: skip
TAGS = {
    TAG + "bert": {"prefLabel": ["BERT"], "altLabel": []},
    TAG + "nlp": {"prefLabel": ["NLP", "TALN"]},
    TAG + "rdf": {"prefLabel": ["RDF"]},
    TAG + "unused": {"prefLabel": ["Unused"]},
}


def write(folder: Path, pages: object = PAGES, tags: object = TAGS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "docs.json").write_text(json.dumps(pages), encoding="utf-8")
    (folder / "tags.json").write_text(json.dumps(tags), encoding="utf-8")
    return folder


def test_a_source_archive_becomes_a_corpus(tmp_path: Path) -> None:
    folder = write(tmp_path / "files")
    with tarfile.open(tmp_path / "cherche-2.2.1.tar.gz", "w:gz") as archive:
        archive.add(folder, "cherche-2.2.1/cherche/data/semanlink")
    for path in folder.iterdir():
        path.unlink()
    source = Semanlink(counts=COUNTS)
    corpus = source.build(source.fetch(tmp_path / "cache", tmp_path), tmp_path / "corpus")
    items = corpus.items.to_pylist()
    assert items[0] == {
        "item_id": "http://www.x.org/0",
        "title": "BERT",
        "site": "arxiv.org",
        "authors": ["J. Devlin", "M. Chang"],
        "comment": None,
        "abstract": "We introduce BERT.",
    }
    assert (items[1]["comment"], items[1]["site"]) == ("See here", "x.org")
    assert [item["title"] for item in items[3:5]] == ["http://www.x.org/3", "On RDF"]
    assert corpus.events["item_id"].to_pylist()[:2] == ["http://www.x.org/2", "http://www.x.org/0"]
    assert corpus.time_E[0] == 1129680000000  # midnight of 19 October 2005
    assert corpus.card.actions == ("bookmarked",)


def test_tags_on_five_pages_are_queries(tmp_path: Path) -> None:
    folder = write(tmp_path / "files")
    source = Semanlink(counts=COUNTS)
    corpus = source.build(source.fetch(tmp_path / "cache", folder), tmp_path / "corpus")
    rows = {
        name: table.to_pylist()
        for name in ("queries", "judgements", "tags", "links")
        if (table := corpus.table(name)) is not None
    }
    assert rows["queries"] == [{"query_id": "bert", "text": "BERT"}]
    assert [row["item_id"][-1] for row in rows["judgements"]] == ["0", "1", "2", "3", "4"]
    assert {row["grade"] for row in rows["judgements"]} == {1.0}
    assert [(row["item_id"][-1], row["tag"]) for row in rows["tags"]] == [
        ("0", "BERT"), ("0", "NLP"), ("1", "BERT"), ("2", "BERT"), ("3", "BERT"),
        ("4", "BERT"), ("4", "RDF"),
    ]  # fmt: skip
    assert {row["user_id"] for row in rows["tags"]} == {"curator"}
    assert [(row["item_id"][-1], row["other_id"][-1]) for row in rows["links"]] == [("1", "0")]


def test_tags_make_search_tasks_with_drawn_wrong_pages(tmp_path: Path) -> None:
    pages = [
        page(row, ["bert"] if row % 2 else ["nlp"], creationTime=f"2019-10-{1 + row:02d}")
        for row in range(30)
    ]
    folder = write(tmp_path / "files", pages)
    source = Semanlink(counts={"pages": 30, "tags in use": 2, "queries": 2})
    corpus = source.build(source.fetch(tmp_path / "cache", folder), tmp_path / "corpus")
    config = BuildConfig()
    described = describe(corpus, split_corpus(corpus, config.split), config)
    reasons = {task.name: applicable(task, described) for task in all_tasks().values()}
    assert reasons["search_match_sampled"] is None
    assert reasons["query_suggestion"] is None
    assert reasons["search_match"] == "its judgements are all of one grade"
    assert reasons["query_ranking"] == "its judgements are all of one grade"


@pytest.mark.parametrize(
    ("pages", "tags", "message"),
    [
        ({}, TAGS, "holds no list"),
        ([{"document": "x"}], TAGS, "has no 'title'"),
        (["x"], TAGS, "has no 'document'"),
        ([page(0, [], creationTime="", creationDate="")], TAGS, "has no time"),
        (PAGES, {TAG + "bert": {"prefLabel": []}}, "a tag in use has no label"),
        (PAGES, [], "holds no dict"),
    ],
)
def test_spoilt_files(tmp_path: Path, pages: object, tags: object, message: str) -> None:
    folder = write(tmp_path / "files", pages, tags)
    source = Semanlink(counts=COUNTS)
    with pytest.raises(DataError, match=message) as caught:
        source.build(source.fetch(tmp_path / "cache", folder), tmp_path / "corpus")
    assert str(folder) in str(caught.value.file)
    (folder / "docs.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        source.build(source.fetch(tmp_path / "cache", folder), tmp_path / "corpus")


def test_counts_are_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "files")
    with pytest.raises(DataError, match="semanlink has 7,300 pages; these files have 6"):
        Semanlink().build(Semanlink().fetch(tmp_path, folder), tmp_path / "corpus")
