"""Amazon Reviews 2023 on small files in the published format."""

import json
from pathlib import Path
from typing import Any

import pytest
from packed_files import write_gz

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources import amazon_2023
from data_pipeline.sources.amazon import category_names, price, text_of
from data_pipeline.sources.amazon_2023 import REVIEWS, AmazonReviews2023
from data_pipeline.splits import SplitConfig, split_corpus

CATEGORY = "Office_Products"


def review(user: str, item: str, time: int, stars: float = 5.0, **more: Any) -> str:
    record = {
        "rating": stars,
        "title": "Good",
        "text": "Works.",
        "images": [{"small_image_url": "https://m.media-amazon.com/x.jpg"}],
        "asin": f"{item}-blue",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    }
    return json.dumps(record | more)


def meta(item: str, **more: Any) -> str:
    record = {
        "main_category": "Office Products",
        "title": "Stapler",
        "average_rating": 4.5,
        "rating_number": 665,
        "features": [],
        "description": [],
        "price": None,
        "images": [{"thumb": "x", "large": "y", "variant": "MAIN", "hi_res": None}],
        "videos": [],
        "store": None,
        "categories": [],
        "details": {},
        "parent_asin": item,
        "bought_together": None,
    }
    return json.dumps(record | more)


REVIEW_LINES = [
    review("AB", "B1", 1_588_687_728_923, text="It&#39;s <br />fine \ud83d\ude00", helpful_vote=3),
    review("AA", "B2", 1_452_647_382, 4.0, title="None of &quot;that&quot;"),  # seconds
    review("AA", "B1", 1_700_000_000_000 - 10**11, 1.0, verified_purchase=False, text=""),
    review("AB", "B1", 1_588_687_728_923, 2.0, text="again"),  # a variant of the same product
    review("AC", "B9", 1_588_687_728_000, 3.0),
    review("AC", "B2", 1_588_687_728_000, 0.0),  # the published files have a few of these
]
META_LINES = [
    meta("B0", title="Nobody reviewed it"),
    meta(
        "B1",
        title="Pens &amp; Pencils, 12&quot;",
        features=["Blue<br>ink", "None"],
        description=["First.", "", "Second &mdash; last."],
        price="from 14.99",
        store="PaperCo",
        categories=["Office Products", "Writing", "Pens &amp; Refills"],
        details={"Brand": "Inky", "Date First Available": "April 3, 2022"},
    ),
    meta("B2", title=None, price=2.68, store="Some One (Author)", author={"name": "Some One"}),
    meta("B1", title="The same again"),
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_gz(tmp_path / "files" / f"{CATEGORY}.jsonl.gz", REVIEW_LINES)
    write_gz(tmp_path / "files" / f"meta_{CATEGORY}.jsonl.gz", META_LINES)
    return tmp_path / "files"


def built(files: Path, folder: Path, variant: str = CATEGORY, **counts: int) -> Corpus:
    source = AmazonReviews2023(variant=variant, counts={variant: counts})
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def test_reviews_become_a_corpus(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus", ratings=6)
    assert corpus.card.name == "amazon-2023-Office_Products"
    assert corpus.card.actions == ("rated",)
    assert corpus.card.counts == {
        "items": 3,
        "users": 3,
        "events": 4,
        "dropped_invalid_ratings": 1,
        "dropped_duplicates": 1,
    }
    assert corpus.users["user_id"].to_pylist() == ["AB", "AA", "AC"]
    assert corpus.time_E.tolist() == [
        1_588_687_728_923,
        1_452_647_382_000,
        1_600_000_000_000,
        1_588_687_728_000,
    ]
    events = corpus.events.to_pylist()
    assert [event["item_id"] for event in events] == ["B1", "B2", "B1", "B9"]
    assert [event["value"] for event in events] == [5.0, 4.0, 1.0, 3.0]
    assert [event["review"] for event in events] == ["It's fine 😀", "Works.", None, "Works."]
    assert events[1]["summary"] == 'None of "that"'
    assert [event["helpful"] for event in events] == [3.0, 0.0, 0.0, 0.0]
    assert [event["verified"] for event in events] == ["yes", "yes", "no", "yes"]
    assert [field.name for field in corpus.card.event_fields] == [
        "summary",
        "review",
        "helpful",
        "verified",
    ]


def test_products_have_what_matters_and_nothing_from_the_future(
    tmp_path: Path, files: Path
) -> None:
    corpus = built(files, tmp_path / "corpus")
    assert corpus.items.to_pylist() == [
        {
            "item_id": "B1",
            "title": 'Pens & Pencils, 12"',
            "categories": ["Writing", "Pens & Refills"],
            "brand": "Inky",
            "author": None,
            "price": 14.99,
            "description": "First. Second — last.",
            "features": "Blue ink",
        },
        {
            "item_id": "B2",
            "title": "B2",
            "categories": None,
            "brand": "Some One (Author)",
            "author": "Some One",
            "price": 2.68,
            "description": None,
            "features": None,
        },
        {"item_id": "B9", "title": "B9"}
        | dict.fromkeys(["categories", "brand", "author", "price", "description", "features"]),
    ]
    assert corpus.card.item_noun == "product"


BENCHMARK = [  # the published row of a user stand together, by time
    "AG,B1,3.0,1452647382000",
    "AG,B2,4.0,1628643414042",
    "AG,B3,5.0,1628643414042",
    "AH,B1,1.0,1658002729837",
    "AH,B3,5.0,1658002729838",
]
HEADER = "user_id,parent_asin,rating,timestamp"


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    write_gz(tmp_path / "one" / f"{CATEGORY}.csv.gz", [HEADER, *BENCHMARK])
    write_gz(tmp_path / "one" / f"meta_{CATEGORY}.jsonl.gz", META_LINES)
    return tmp_path / "one"


def test_benchmark_is_the_same_from_one_file_or_from_a_split(
    tmp_path: Path, benchmark: Path
) -> None:
    """Of the published splits, with or without their histories."""
    whole = built(benchmark, tmp_path / "a", f"{CATEGORY}-5core", ratings=5, users=2, items=3)
    assert whole.events["item_id"].to_pylist() == ["B1", "B2", "B3", "B1", "B3"]
    assert whole.card.event_fields == ()
    assert [field.name for field in whole.card.item_fields][:2] == ["categories", "brand"]
    split = tmp_path / "split"
    parts = {"train": BENCHMARK[:1], "valid": [BENCHMARK[1], BENCHMARK[3]]}
    parts["test"] = [BENCHMARK[2], BENCHMARK[4]]
    for name, lines in parts.items():
        with_history = [f"{HEADER},history", *(f"{line},B1 B2" for line in lines)]
        write_gz(split / f"{CATEGORY}.{name}.csv.gz", with_history)
    (split / f"meta_{CATEGORY}.jsonl").write_text("\n".join(META_LINES))  # unpacked
    joined = built(split, tmp_path / "b", f"{CATEGORY}-5core", ratings=5)
    assert joined.events.equals(whole.events)
    assert joined.fingerprint == whole.fingerprint


def test_published_boundaries_are_those_of_the_timestamp_split(
    tmp_path: Path, benchmark: Path
) -> None:
    corpus = built(benchmark, tmp_path / "a", f"{CATEGORY}-0core")
    split = split_corpus(corpus, SplitConfig(method="published"))
    assert split.phase_E.tolist() == [0, 1, 1, 2, 2]
    ends = (split.card["train_end"], split.card["validation_end"])
    assert ends == (1_628_643_414_042, 1_658_002_729_837)


@pytest.mark.parametrize(("kind", "count"), [("ratings", 6), ("users", 3), ("items", 2)])
def test_wrong_counts_are_refused(tmp_path: Path, benchmark: Path, kind: str, count: int) -> None:
    with pytest.raises(DataError, match=rf"has {count} {kind}; these files have \d") as caught:
        built(benchmark, tmp_path / "a", f"{CATEGORY}-5core", **{kind: count})
    assert "of this variant" in str(caught.value.remedy)
    assert not (tmp_path / "a").exists()


def test_published_counts_are_the_default(tmp_path: Path, files: Path) -> None:
    with pytest.raises(DataError, match=r"12,845,712 ratings; these files have 6"):
        sources.fetch_corpus(
            "amazon-2023:Office_Products", tmp_path / "a", cache_dir=tmp_path, from_dir=files
        )
    # The publisher's "571.54M reviews" in all.
    assert sum(REVIEWS.values()) // 10_000 == 57_154


@pytest.mark.parametrize(
    ("line", "message", "row"),
    [
        ('{"rating": 5.0, "title"', "not JSON", 3),
        (review("AA", "B1", 1_588_687_728_923, "five"), "not of type double", 3),  # type: ignore[arg-type]
        (review("AA", "B1", 99_588_687_728_923), "in the future", 3),
        (review("AA", "B1", None), "timestamp is missing", 3),  # type: ignore[arg-type]
        (review(None, "B1", 1_588_687_728_923), "id is missing", 3),  # type: ignore[arg-type]
        (review("AA", None, 1_588_687_728_923), "id is missing", 3),  # type: ignore[arg-type]
    ],
)
def test_spoilt_review_is_named(
    tmp_path: Path, files: Path, line: str, message: str, row: int
) -> None:
    lines = [*REVIEW_LINES[:2], line, *REVIEW_LINES[2:]]
    path = write_gz(files / f"{CATEGORY}.jsonl.gz", lines)
    with pytest.raises(DataError, match=message) as caught:
        built(files, tmp_path / "a")
    assert (caught.value.file, caught.value.row) == (str(path), row)
    assert not list(tmp_path.glob("*a*spool*"))


@pytest.mark.parametrize(
    ("line", "message"), [("AG,B1,five,1", "not a number"), ("AG,B1", "has 2 values")]
)
def test_spoilt_rating_is_named(tmp_path: Path, benchmark: Path, line: str, message: str) -> None:
    path = write_gz(benchmark / f"{CATEGORY}.csv.gz", [HEADER, *BENCHMARK, line])
    with pytest.raises(DataError, match=message) as caught:
        built(benchmark, tmp_path / "a", f"{CATEGORY}-5core")
    assert (caught.value.file, caught.value.row) == (str(path), 6)


def test_variants_are_categories_and_their_cores() -> None:
    source = sources.get("amazon-2023:Books-5core")
    assert isinstance(source, AmazonReviews2023)
    assert (source.category, source.core) == ("Books", "5core")
    with pytest.raises(DataError, match="comes in variants"):
        sources.get("amazon-2023")
    with pytest.raises(DataError, match="no variant 'Office'") as caught:
        sources.get("amazon-2023:Office")
    assert "one of Office_Products" in str(caught.value.remedy)


def test_what_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path]] = []

    def fetch_files(name: str, urls: dict[str, str], cache: Path, **_: Any) -> dict[str, Path]:
        asked.extend((url, cache) for url in urls.values())
        return {role: cache / role for role in urls}

    monkeypatch.setattr(amazon_2023, "fetch_files", fetch_files)
    for variant in ("Books", "Books-0core", "Books-5core"):
        AmazonReviews2023(variant=variant).fetch(tmp_path)
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
    cache = tmp_path / "amazon-2023"
    meta = (f"{base}/raw/meta_categories/meta_Books.jsonl.gz", cache)
    assert asked == [
        (f"{base}/raw/review_categories/Books.jsonl.gz", cache),
        meta,
        (f"{base}/benchmark/0core/rating_only/Books.csv.gz", cache / "0core"),
        meta,
        (f"{base}/benchmark/5core/rating_only/Books.csv.gz", cache / "5core"),
        meta,
    ]


@pytest.mark.parametrize(
    ("stored", "number"),
    [
        (5.35, 5.35),
        ("$1,299.00", 1299.0),
        ("from 14.99", 14.99),
        ("12.50 - 20.00", 12.5),
        ("None", None),
        ("—", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_prices(stored: object, number: float | None) -> None:
    assert price(stored) == number


def test_categories_and_texts() -> None:
    paths = [["Beauty", "Hair Care"], ["Beauty", "Hair Care", "Combs"], ["Beauty"], []]
    assert category_names(paths) == ["Hair Care", "Combs", "Beauty"]
    assert category_names([[]]) is None
    assert text_of(["a", None, "None", "<b>b</b>"]) == "a b"
    assert text_of("x" * 5_000) == "x" * 2_000
    assert text_of([]) is None
