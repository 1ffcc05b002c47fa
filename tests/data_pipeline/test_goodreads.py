"""Goodreads on small files in the published format."""

import json
from pathlib import Path
from typing import Any

import pytest
from packed_files import write_gz

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources import spool, streams
from data_pipeline.sources.goodreads import Goodreads


def book(book_id: str, **changed: object) -> dict[str, Any]:
    return {
        "isbn": "0151686564",
        "text_reviews_count": "626",
        "series": [],
        "country_code": "US",
        "language_code": "en-US",
        "popular_shelves": [{"count": "15419", "name": "to-read"}],
        "asin": "",
        "is_ebook": "false",
        "average_rating": "4.09",
        "similar_books": [],
        "description": "",
        "format": "Hardcover",
        "link": f"https://www.goodreads.com/book/show/{book_id}",
        "authors": [{"author_id": "18540", "role": ""}],
        "publisher": "",
        "num_pages": "",
        "publication_year": "",
        "book_id": book_id,
        "ratings_count": "15716",
        "work_id": "372536",
        "title": f"Book {book_id}",
        "title_without_series": f"Book {book_id}",
        **changed,
    }


CATS = book(
    "402128",
    popular_shelves=[
        {"count": "15419", "name": "to-read"},
        {"count": "1762", "name": "poetry"},
        {"count": "187", "name": "favorites"},
        {"count": "104", "name": "owned"},
        {"count": "97", "name": "humor"},
        {"count": "8", "name": "2017-reading-challenge"},
        {"count": "7", "name": "poesía"},
    ],
    similar_books=["884306", "234", "402128", "884306"],
    description="T. S. Eliot&#39;s playful\ncat poems",
    authors=[{"author_id": "18540", "role": ""}, {"author_id": "21578", "role": "Illustrator"}],
    publisher="Harcourt Brace & Company",
    num_pages="56",
    publication_year="1982",
    title="Old Possum's Book (Cats, #1.5)",
    title_without_series="Old Possum's Book",
)
BOOKS = [
    CATS,
    book(
        "884306",
        title="The Two Towers (The Lord of the Rings #2)",
        title_without_series="The Two Towers (The Lord of the Rings #2)",
        publication_year="65535",
        authors=[{"author_id": "21578", "role": "Editor"}, {"author_id": "404", "role": "Editor"}],
    ),
    book("3", title="", title_without_series="", authors=[], language_code="", format=""),
]
AUTHORS = [
    {"average_rating": "3.98", "author_id": author_id, "ratings_count": "7", "name": name}
    for author_id, name in (("18540", "T.S.  Eliot"), ("21578", "E. Gorey"))
]


def shelved(user: str, book_id: str, review: str, **changed: object) -> dict[str, Any]:
    return {
        "user_id": user * 16,
        "book_id": book_id,
        "review_id": review * 16,
        "is_read": True,
        "rating": 4,
        "review_text_incomplete": "",
        "date_added": "Fri Apr 19 08:15:15 -0700 2013",
        "date_updated": "Fri Apr 19 08:15:15 -0700 2013",
        "read_at": "",
        "started_at": "",
        **changed,
    }


SHELVED = [
    shelved("80", "402128", "f1"),
    shelved("80", "884306", "e1", is_read=False, rating=0),
    shelved("3c", "402128", "f2", date_added="Sun Jul 30 23:44:10 +0200 2017"),
    shelved("3c", "3", "e2", date_added=""),
    shelved("3c", "884306", "f3", date_added="Tue Jan 01 00:00:00 -0800 2560"),
]


def review(shelf: dict[str, Any], text: str, votes: int) -> dict[str, Any]:
    names = ("user_id", "book_id", "review_id", "rating", "date_added", "date_updated")
    row = {name: shelf[name] for name in (*names, "read_at", "started_at")}
    return {**row, "review_text": text, "n_votes": votes, "n_comments": 0}


REVIEWS = [
    review(SHELVED[2], "Great\n<i>cats</i> &amp; poems", 3),
    review(SHELVED[0], "Fun ♥", 0),
    review(shelved("99", "7", "a9"), "Of another shelf", 1),
]
COUNTS = {"users": 2, "books": 3, "interactions": 5, "reviews": 3}


def write(folder: Path, name: str, records: list[Any]) -> None:
    write_gz(folder / f"goodreads_{name}.json.gz", map(json.dumps, records))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    write(folder, "books_poetry", BOOKS)
    write(folder, "book_authors", AUTHORS)
    write(folder, "interactions_poetry", SHELVED)
    write(folder, "reviews_poetry", REVIEWS)
    return folder


def built(files: Path, variant: str = "poetry", counts: dict[str, int] | None = None) -> Corpus:
    source = Goodreads(variant=variant, counts={variant: COUNTS if counts is None else counts})
    return source.build(source.fetch(files.parent / "cache", files), files.parent / "corpus")


def test_shelved_books_with_their_reviews(files: Path) -> None:
    corpus = built(files)
    names = ("item_id", "action", "value", "finished", "helpful", "review")
    assert [tuple(row[name] for name in names) for row in corpus.events.to_pylist()] == [
        ("402128", "read", 4.0, "yes", 0.0, "Fun ♥"),
        ("884306", "shelved", None, "no", None, None),
        ("402128", "read", 4.0, "yes", 3.0, "Great cats & poems"),
    ]
    assert [row["timestamp"].isoformat() for row in corpus.events.to_pylist()] == [
        "2013-04-19T15:15:15+00:00",
        "2013-04-19T15:15:15+00:00",
        "2017-07-30T21:44:10+00:00",
    ]
    assert corpus.card.counts["dropped_odd_times"] == 2
    assert [field.name for field in corpus.card.event_fields] == ["finished", "helpful", "review"]


def test_books(files: Path) -> None:
    corpus = built(files)
    cats, towers, nameless = corpus.items.to_pylist()
    assert cats == {
        "item_id": "402128",
        "title": "Old Possum's Book",
        "authors": ["T.S. Eliot"],
        "shelves": ["poetry", "humor", "poesía"],
        "series": "Cats #1.5",
        "year": 1982.0,
        "pages": 56.0,
        "format": "Hardcover",
        "language": "en-US",
        "publisher": "Harcourt Brace & Company",
        "description": "T. S. Eliot's playful cat poems",
    }
    assert (towers["title"], towers["series"]) == ("The Two Towers", "The Lord of the Rings #2")
    assert (towers["authors"], towers["year"]) == (["E. Gorey"], None)
    assert (nameless["title"], nameless["authors"], nameless["language"]) == ("3", None, None)


def test_similar_books_become_links(files: Path) -> None:
    links = built(files).table("links")
    assert links is not None
    found = [(row["item_id"], row["other_id"], row["relation"]) for row in links.to_pylist()]
    assert found == [("402128", "884306", "similar")]  # the other one is of another genre


def test_reviews_are_found_over_many_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_BLOCK_BYTES", 2_000)
    monkeypatch.setattr(spool, "_ROWS", 3)
    shelves = [
        shelved(f"{user:02x}", "402128", f"{user:02x}", rating=user % 6) for user in range(200)
    ]
    written = [review(shelf, f"text {n}", n) for n, shelf in enumerate(shelves) if n % 3 == 0]
    folder = tmp_path / "files"
    write(folder, "books_poetry", [CATS])
    write(folder, "book_authors", AUTHORS)
    write(folder, "interactions_poetry", shelves)
    write(folder, "reviews_poetry", written[::-7] + [w for w in written if w not in written[::-7]])
    corpus = built(folder, counts={})
    for number, row in enumerate(corpus.events.to_pylist()):
        assert row["review"] == (f"text {number}" if number % 3 == 0 else None)
        assert row["helpful"] == (number if number % 3 == 0 else None)
        assert row["value"] == (number % 6 or None)


def test_full_takes_the_files_of_all_genres(tmp_path: Path, files: Path) -> None:
    other = tmp_path / "other"
    write(other, "books", BOOKS)
    write(other, "book_authors", AUTHORS)
    write(other, "interactions_dedup", SHELVED)
    write(other, "reviews_dedup", REVIEWS)
    assert built(other, "full").card.name == "goodreads-full"
    with pytest.raises(DataError, match="files of goodreads-full are not there"):
        built(files, "full")


SPOILERS = [
    {
        "user_id": "8842281e1d1347389f2ab93d60773d4d",
        "timestamp": "2017-08-30",
        "review_sentences": [[0, "This is a special book."], [1, "The butler did it."]],
        "rating": 5,
        "has_spoiler": True,
        "book_id": "402128",
        "review_id": "dfdbb7b0eb5a7e4c26d59a937e2e5feb",
    },
    {
        "user_id": "8842281e1d1347389f2ab93d60773d4d",
        "timestamp": "2017-03-22",
        "review_sentences": [[0, "Recommended."]],
        "rating": 0,
        "has_spoiler": False,
        "book_id": "7",
        "review_id": "a5d2c3628987712d0e05c4f90798eb67",
    },
]


def write_spoilers(folder: Path, records: list[Any]) -> None:
    write(folder, "books", BOOKS)
    write(folder, "book_authors", AUTHORS)
    write(folder, "reviews_spoiler", records)


def test_spoilers(files: Path) -> None:
    write_spoilers(files, SPOILERS)
    corpus = built(files, "spoiler", {"users": 1, "interactions": 2})
    names = ("item_id", "action", "value", "spoiler", "review")
    assert [tuple(row[name] for name in names) for row in corpus.events.to_pylist()] == [
        ("7", "reviewed", None, "no", "Recommended."),
        ("402128", "reviewed", 5.0, "yes", "This is a special book. The butler did it."),
    ]
    # Books that no review is about are left out; one without a record has its id for a title.
    assert corpus.items["title"].to_pylist() == ["Old Possum's Book", "7"]
    assert corpus.table("links") is None


@pytest.mark.parametrize("change", [{"review_sentences": ["text"]}, {"timestamp": ""}])
def test_odd_spoiler_is_named(files: Path, change: dict[str, Any]) -> None:
    write_spoilers(files, [SPOILERS[0], {**SPOILERS[1], **change}])
    with pytest.raises(DataError, match="not the expected review") as caught:
        built(files, "spoiler", {})
    assert caught.value.row == 2


@pytest.mark.parametrize("what", sorted(COUNTS))
def test_other_counts_are_refused(files: Path, what: str) -> None:
    with pytest.raises(DataError, match=f"goodreads-poetry has 77 {what}"):
        built(files, counts={what: 77})
    assert not (files.parent / "corpus").exists()


def test_genres_are_named() -> None:
    source = sources.get("goodreads:young_adult")
    assert source.full_name == "goodreads-young_adult"
    with pytest.raises(DataError, match="comes in variants"):
        sources.get("goodreads")
