"""Goodreads: what readers put on their shelves up to 2017, what they read, rated and wrote.

    goodreads:poetry    one of eight genres: shelved books with reviews
    goodreads:full      all 228,648,342 shelved books
    goodreads:spoiler   1,378,033 reviews, each marked as one that gives the plot away or not

An event has the action "read" or "shelved" and, saying the same, the field `finished`; its value is
the rating, where there is one. Its time is that of putting the book on a shelf.

M. Wan and J. McAuley, "Item Recommendation on Monotonic Behavior Chains", RecSys 2018; M. Wan et
al., "Fine-Grained Spoiler Detection from Large-Scale Review Corpora", ACL 2019.

Shape letters: E events of a block, R reviews.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import fetch_files
from data_pipeline.sources.assembly import check_counts, listed, repeated, used_fields
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.goodreads_books import ITEM_FIELDS, read_books
from data_pipeline.sources.literals import in_tables
from data_pipeline.sources.markup import readable_column, readable_or_none
from data_pipeline.sources.profiles import yes_no
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import json_tables, numbered_lines

GENRES = (
    "children",
    "comics_graphic",
    "fantasy_paranormal",
    "history_biography",
    "mystery_thriller_crime",
    "poetry",
    "romance",
    "young_adult",
)
_TIME = pa.timestamp("ms", "UTC")
_EVENT_FIELDS = (
    Field(name="finished", kind="category"),
    Field(name="helpful", kind="number"),
    Field(name="spoiler", kind="category"),
    Field(name="review", kind="text"),
)
_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _TIME),
        ("action", pa.string()),
        ("value", pa.float32()),
        ("finished", pa.string()),
        ("helpful", pa.float64()),
        ("spoiler", pa.string()),
        ("review", pa.string()),
    ]
)
_SHELVED = {
    "user_id": pa.field("user_id", pa.string()),
    "item_id": pa.field("book_id", pa.string()),
    "review_id": pa.field("review_id", pa.string()),
    "is_read": pa.field("is_read", pa.bool_()),
    "rating": pa.field("rating", pa.int64()),
    "added": pa.field("date_added", pa.string()),
}
_REVIEWED = {
    "review_id": pa.field("review_id", pa.string()),
    "review": pa.field("review_text", pa.string()),
    "helpful": pa.field("n_votes", pa.float64()),
}
_REVIEWS = pa.schema(
    [("review_id", pa.string()), ("review", pa.string()), ("helpful", pa.float64())]
)
# The site began in 2006 and was read in 2017; people can give a book any date.
_FIRST, _LAST = datetime(2006, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC)


def _counts() -> dict[str, dict[str, int]]:
    """The publisher's page."""
    genres = {
        "children": (124_082, 10_059_349, 734_640),
        "comics_graphic": (89_411, 7_347_630, 542_338),
        "fantasy_paranormal": (258_585, 55_397_550, 3_424_641),
        "history_biography": (302_935, 31_479_229, 2_066_193),
        "mystery_thriller_crime": (219_235, 24_799_896, 1_849_236),
        "poetry": (36_514, 2_734_350, 154_555),
        "romance": (335_449, 42_792_856, 3_565_378),
        "young_adult": (93_398, 34_919_254, 2_389_900),
    }
    kinds = ("books", "interactions", "reviews")
    return {
        **{genre: dict(zip(kinds, numbers, strict=True)) for genre, numbers in genres.items()},
        "full": {"users": 876_145, "interactions": 228_648_342, "reviews": 15_739_967},
        "spoiler": {"users": 18_892, "interactions": 1_378_033},
    }


@dataclass(frozen=True, kw_only=True)
class Goodreads(Source):
    """A genre of Goodreads, all of it, or its reviews with spoilers marked."""

    name: str = "goodreads"
    licence: str = (
        "for academic use only: no redistribution, no commercial use; cite Wan and McAuley, 2018 "
        "(cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html)"
    )
    homepage: str = "https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html"
    variants: tuple[str, ...] = (*GENRES, "full", "spoiler")
    variant: str = ""
    url: str = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=_counts)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        names = {"books": "books", "events": "interactions_dedup", "reviews": "reviews_dedup"}
        folder = ""
        if self.variant == "spoiler":
            names = {"books": "books", "events": "reviews_spoiler"}
        elif self.variant != "full":
            folder = "byGenre/"
            kinds = {"books": "books", "events": "interactions", "reviews": "reviews"}
            names = {role: f"{kind}_{self.variant}" for role, kind in kinds.items()}
        urls = {
            role: f"{self.url}/{folder}goodreads_{name}.json.gz" for role, name in names.items()
        }
        return fetch_files(
            self.full_name,
            {**urls, "authors": f"{self.url}/goodreads_book_authors.json.gz"},
            self.cache(cache_dir),
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        has_spoilers = self.variant == "spoiler"
        with spool_beside(folder) as spool:
            reviews = None if has_spoilers else _Reviews(paths["reviews"], spool)
            pieces = _marked(paths["events"]) if reviews is None else _shelved(paths, reviews)
            rows = spooled(spool, _EVENTS, pieces)
            dated = kept(spool, rows, pc.is_valid(rows["timestamp"]).to_numpy())
            events = kept(spool, dated, ~repeated(dated))
            book_ids = listed(rows["item_id"])
            books = read_books(paths, book_ids, spool, only_events=has_spoilers)
            found = {
                "users": len(listed(rows["user_id"])),
                "books": books.n_rows,
                "interactions": len(rows),
                "reviews": 0 if reviews is None else len(reviews),
            }
            published = self.counts[self.variant]
            check_counts(self.full_name, found, published, paths["events"])
            events, event_fields = used_fields(events, _EVENT_FIELDS)
            items, item_fields = used_fields(books.items, ITEM_FIELDS)
            return write_corpus(
                folder,
                name=self.full_name,
                items=items,
                users=pa.table({"user_id": listed(events["user_id"])}),
                events=events,
                item_fields=item_fields,
                event_fields=event_fields,
                links=books.links,
                item_noun="book",
                source=f"Goodreads ({self.variant}), {self.homepage}",
                licence=self.licence,
                dropped={
                    "odd_times": len(rows) - len(dated),
                    "duplicates": len(dated) - len(events),
                },
                overwrite=overwrite,
            )


class _Reviews:
    """The texts of reviews by their ids; only the ids are in memory."""

    def __init__(self, path: Path, spool: Path) -> None:
        self._table = spooled(spool, _REVIEWS, self._read(path))
        self._texts = self._table.select(["review", "helpful"]).to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._texts], dtype=np.int64)
        ids_R = np.concatenate([_bytes(chunk) for chunk in self._table["review_id"].chunks])
        self._order_R = np.argsort(ids_R, kind="stable").astype(np.int32)
        self._sorted_R = ids_R[self._order_R]

    def __len__(self) -> int:
        return len(self._table)

    @staticmethod
    def _read(path: Path) -> Iterator[pa.Table]:
        for table, _ in json_tables(path, _REVIEWED):
            position = table.schema.get_field_index("review")
            yield table.set_column(position, "review", readable_column(table["review"]))

    def of(self, review_ids: pa.ChunkedArray) -> pa.Table:
        """Review and number of helpful votes of each id; nulls where it has no review."""
        ids_E = _bytes(review_ids)
        place_E = np.minimum(np.searchsorted(self._sorted_R, ids_E), len(self) - 1)
        has_E = self._sorted_R[place_E] == ids_E
        rows = self._order_R[place_E[has_E]]
        # Batch by batch: a take from a table of gigabytes would first put it in one piece.
        batch_of = np.searchsorted(self._ends, rows, side="right")
        taken = []
        for index in np.unique(batch_of):
            batch = self._texts[index]
            start = self._ends[index] - len(batch)
            taken.append(batch.take(pa.array(rows[batch_of == index] - start)))
        position_E = np.full(len(ids_E), -1, np.int64)
        position_E[np.flatnonzero(has_E)[np.argsort(batch_of, kind="stable")]] = np.arange(
            len(rows)
        )
        found = pa.Table.from_batches(taken, schema=self._table.schema.remove(0))
        return found.take(pa.array(position_E, mask=position_E < 0))


def _bytes(ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """Ids, 32 hexadecimal digits each, as numpy can sort them."""
    return np.array(ids.to_pylist(), dtype="S32")


def _shelved(paths: Paths, reviews: _Reviews) -> Iterator[pa.Table]:
    for table, _ in json_tables(paths["events"], _SHELVED):
        written = reviews.of(table["review_id"])
        yield pa.table(
            {
                "user_id": table["user_id"],
                "item_id": table["item_id"],
                "timestamp": _times(table["added"]),
                "action": pc.if_else(table["is_read"], "read", "shelved"),
                "value": _ratings(table["rating"]),
                "finished": yes_no(table["is_read"]),
                "helpful": written["helpful"],
                "spoiler": pa.nulls(len(table), pa.string()),
                "review": written["review"],
            }
        )


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times such as "Sun Jul 30 07:44:10 -0700 2017"; odd ones are null."""
    form = "%a %b %d %H:%M:%S %z %Y"
    times = pc.strptime(column, format=form, unit="s", error_is_null=True).cast(_TIME)
    is_odd = pc.or_(pc.less(times, _FIRST), pc.greater_equal(times, _LAST))
    return pc.if_else(is_odd, pa.scalar(None, _TIME), times)


def _ratings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Zero stars are no rating."""
    rating = column.cast(pa.float32())
    return pc.if_else(pc.equal(rating, 0), pa.scalar(None, pa.float32()), rating)


def _marked(path: Path) -> Iterator[pa.Table]:
    """Reviews whose sentences are marked: [[0, "A fine book."], [1, "The butler did it."]]."""

    def rows() -> Iterator[dict[str, Any]]:
        for number, line in numbered_lines(path):
            try:
                record = json.loads(line)
                day = datetime.strptime(record["timestamp"], "%Y-%m-%d").replace(tzinfo=UTC)
                text = " ".join(sentence for _, sentence in record["review_sentences"])
                yield {
                    "user_id": record["user_id"],
                    "item_id": record["book_id"],
                    "timestamp": day,
                    "action": "reviewed",
                    "value": record["rating"] or None,
                    "spoiler": "yes" if record["has_spoiler"] else "no",
                    "review": readable_or_none(text),
                }
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"the line is not the expected review: {type(error).__name__}: {error}",
                    file=path,
                    row=number,
                    value=line[:200].decode(errors="replace"),
                    remedy="is it this dataset's file? Otherwise remove it and fetch again",
                ) from error

    return in_tables(rows(), _EVENTS)
