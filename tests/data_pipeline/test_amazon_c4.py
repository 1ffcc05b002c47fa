"""Amazon-C4 on small files in the published format."""

import csv
import json
from pathlib import Path

import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.amazon_c4 import AmazonC4, title_and_rest

QUERIES = [
    ("0", 'I want\nsomething "soft" for the bath, please.', "B2", "AEID", "5.0", "So soft!"),
    ("1", "It&#39;s for my dad, he&#39;s old", "B1", "AEIE", "5.0", "Dad loves it."),
]
ITEMS = [
    {"item_id": "B1", "category": "Care", "metadata": "Big Mug. It holds &amp; warms."},
    {"item_id": "B2", "category": "Toys", "metadata": "Bath Putty"},
    {"item_id": "B3", "category": "Home", "metadata": ""},
    {"item_id": "B1", "category": "Care", "metadata": "The same again"},
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    with (folder / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["qid", "query", "item_id", "user_id", "ori_rating", "ori_review"])
        writer.writerows(QUERIES)
    lines = "".join(f"{json.dumps(item)}\n" for item in ITEMS)
    (folder / "sampled_item_metadata_1M.jsonl").write_text(lines)
    return folder


def built(files: Path, folder: Path, **counts: int) -> Corpus:
    source = AmazonC4(counts=counts)
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def test_requests_and_pool_become_a_corpus(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus", queries=2, items=4)
    queries, judgements = corpus.table("queries"), corpus.table("judgements")
    assert queries is not None
    assert judgements is not None
    assert queries.to_pylist() == [
        {"query_id": "0", "text": 'I want something "soft" for the bath, please.'},
        {"query_id": "1", "text": "It's for my dad, he's old"},
    ]
    assert judgements.to_pylist() == [
        {"query_id": "0", "item_id": "B2", "grade": 1.0, "label": None, "split": "test"},
        {"query_id": "1", "item_id": "B1", "grade": 1.0, "label": None, "split": "test"},
    ]
    assert corpus.items.to_pylist() == [
        {
            "item_id": "B1",
            "title": "Big Mug.",
            "category": "Care",
            "description": "It holds & warms.",
        },
        {"item_id": "B2", "title": "Bath Putty", "category": "Toys", "description": None},
        {"item_id": "B3", "title": "B3", "category": "Home", "description": None},
    ]
    assert (len(corpus.users), len(corpus.events)) == (0, 0)
    texts = "".join(str(table.to_pylist()) for table in (queries, judgements, corpus.items))
    assert "Dad loves it" not in texts  # the review would answer the request


def test_wrong_counts_are_refused(tmp_path: Path, files: Path) -> None:
    with pytest.raises(DataError, match="21,223 queries; these files have 2"):
        sources.fetch_corpus("amazon-c4", tmp_path / "a", cache_dir=tmp_path, from_dir=files)


def test_request_for_an_unknown_product_is_refused(tmp_path: Path, files: Path) -> None:
    (files / "sampled_item_metadata_1M.jsonl").write_text(json.dumps(ITEMS[0]))
    with pytest.raises(DataError, match="item") as caught:
        built(files, tmp_path / "a")
    assert caught.value.value == "B2"


@pytest.mark.parametrize(
    ("text", "title", "rest"),
    [
        ("Comb. Fine teeth.", "Comb.", "Fine teeth."),
        ("Mr. Big Comb for hair", "Mr. Big Comb for hair", ""),
        (" ".join("word" for _ in range(30)), " ".join(["word"] * 24), " ".join(["word"] * 6)),
        ("", "", ""),
    ],
)
def test_titles_are_cut_off_and_nothing_is_lost(text: str, title: str, rest: str) -> None:
    assert title_and_rest(text) == (title, rest)
