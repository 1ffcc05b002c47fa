"""Amazon reviews of 2014 on small files in the published format."""

import json
from pathlib import Path
from typing import Any

import pytest
from packed_files import write_gz

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.amazon_2014 import AmazonReviews2014

DAY = 86_400


def review(user: str, item: str, day: int, stars: float = 5.0, **more: Any) -> str:
    record = {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'Mike "the man" J.',
        "helpful": [0, 0],
        "reviewText": "Nice.",
        "overall": stars,
        "summary": "Good",
        "unixReviewTime": 1_391_040_000 + day * DAY,
        "reviewTime": "01 30, 2014",
    }
    return json.dumps(record | more)


# Grouped by product, as published: U2's two reviews of one day stand in the order of the products.
REVIEWS = [
    review("U1", "A1", 3, helpful=[3, 4], reviewText="It&#39;s good"),
    review("U2", "A1", 1, 2.0),
    review("U1", "A2", 1),
    review("U2", "A2", 1, 3.0),
    review("U1", "A3", 2, summary=""),
]
# Python, not JSON: quotes of both kinds, no null.
META = [
    "{'asin': 'A0', 'title': 'Nobody reviewed it', 'categories': [['Toys & Games']]}",
    """{'asin': 'A1', 'related': {'also_bought': ['A2', 'X9', 'A2'], 'bought_together': ['A3'],"""
    """ 'buy_after_viewing': ['A1']}, 'title': "Chef's &quot;Magic&quot; Set", 'price': 14.95,"""
    """ 'salesRank': {'Toys & Games': 19905}, 'imUrl': 'http://ecx.images-amazon.com/x.jpg',"""
    """ 'brand': 'Magic', 'categories': [['Toys & Games', 'Games', 'Dice'],"""
    """ ['Toys & Games', 'Puzzles']], 'description': 'For <b>two</b>.\\nOr "more".'}""",
    "{'asin': 'A2', 'title': 'None', 'brand': '', 'price': None, 'categories': [['Toys & Games']]}",
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_gz(tmp_path / "files" / "reviews_Toys_and_Games_5.json.gz", REVIEWS)
    write_gz(tmp_path / "files" / "meta_Toys_and_Games.json.gz", META)
    return tmp_path / "files"


def built(files: Path, folder: Path, **counts: int) -> Corpus:
    source = AmazonReviews2014(variant="Toys_and_Games", counts={"Toys_and_Games": counts})
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def test_reviews_become_a_corpus(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus", ratings=5, users=2, items=3)
    assert corpus.card.name == "amazon-2014-Toys_and_Games"
    events = corpus.events.to_pylist()
    order = [(event["user_id"], event["item_id"]) for event in events]
    # By time, and within a day as in the file.
    assert order == [("U1", "A2"), ("U1", "A3"), ("U1", "A1"), ("U2", "A1"), ("U2", "A2")]
    assert corpus.time_E[2] == (1_391_040_000 + 3 * DAY) * 1000
    assert [event["helpful"] for event in events] == [0.0, 0.0, 3.0, 0.0, 0.0]
    assert events[2]["review"] == "It's good"
    assert events[1]["summary"] is None
    assert "reviewerName" not in corpus.events.column_names
    assert corpus.items.to_pylist() == [
        {
            "item_id": "A1",
            "title": 'Chef\'s "Magic" Set',
            "categories": ["Games", "Dice", "Puzzles"],
            "brand": "Magic",
            "price": 14.95,
            "description": 'For two. Or "more".',
        },
        {
            "item_id": "A2",
            "title": "A2",
            "categories": ["Toys & Games"],
            "brand": None,
            "price": None,
            "description": None,
        },
        {"item_id": "A3", "title": "A3"}
        | dict.fromkeys(["categories", "brand", "price", "description"]),
    ]


def test_related_products_of_the_corpus_are_links(tmp_path: Path, files: Path) -> None:
    links = built(files, tmp_path / "corpus").table("links")
    assert links is not None
    assert [tuple(row.values())[:3] for row in links.to_pylist()] == [
        ("A1", "A2", "also_bought"),
        ("A1", "A3", "bought_together"),
    ]


def test_wrong_counts_are_refused(tmp_path: Path, files: Path) -> None:
    with pytest.raises(DataError, match="19,412 users; these files have 2"):
        sources.fetch_corpus(
            "amazon-2014:Toys_and_Games", tmp_path / "a", cache_dir=tmp_path, from_dir=files
        )
    with pytest.raises(DataError, match="4 ratings; these files have 5"):
        built(files, tmp_path / "a", ratings=4)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "line",
    [
        "{'asin': 'A3', 'title': __import__('os').getcwd()}",
        "{'asin': 'A3', 'title': 'cut off",
        "{'title': 'no id'}",
        "<html>please log in</html>",
    ],
)
def test_record_that_is_no_literal_is_refused_and_never_run(
    tmp_path: Path, files: Path, line: str
) -> None:
    path = write_gz(files / "meta_Toys_and_Games.json.gz", [*META, line])
    with pytest.raises(DataError) as caught:
        built(files, tmp_path / "a")
    assert (caught.value.file, caught.value.row) == (str(path), 4)


def test_spoilt_review_is_named(tmp_path: Path, files: Path) -> None:
    path = write_gz(
        files / "reviews_Toys_and_Games_5.json.gz",
        [*REVIEWS, review("U3", "A1", 1, unixReviewTime="today")],
    )
    with pytest.raises(DataError, match="not of type int64") as caught:
        built(files, tmp_path / "a")
    assert (caught.value.file, caught.value.row) == (str(path), 6)
    assert caught.value.column == "unixReviewTime"


def test_variants_are_the_three_categories() -> None:
    with pytest.raises(DataError, match="no variant 'Sports'") as caught:
        sources.get("amazon-2014:Sports")
    assert "one of Sports_and_Outdoors" in str(caught.value.remedy)
