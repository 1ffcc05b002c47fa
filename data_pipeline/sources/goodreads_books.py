"""The books of Goodreads: what they are, who wrote them, and which are similar.

Average ratings and numbers of ratings are left out: they were taken in 2017, after everything that
is asked about. So were the counts of shelves, but not the shelves themselves: they say what a book
is about.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Field
from data_pipeline.corpus_checks import codes_of
from data_pipeline.corpus_schema import item_schema
from data_pipeline.sources.assembly import first_of_each, with_undescribed
from data_pipeline.sources.base import Paths
from data_pipeline.sources.markup import readable_or_none
from data_pipeline.sources.spool import kept, spooled
from data_pipeline.sources.streams import json_tables

ITEM_FIELDS = (
    Field(name="authors", kind="categories"),
    Field(name="shelves", kind="categories"),
    Field(name="series", kind="text"),
    Field(name="year", kind="year"),
    Field(name="pages", kind="number"),
    Field(name="format", kind="category"),
    Field(name="language", kind="category"),
    Field(name="publisher", kind="category"),
    Field(name="description", kind="text"),
)
_LINKS = pa.schema([("item_id", pa.string()), ("other_id", pa.string())])

_TEXTS = pa.list_(pa.string())
_AUTHORS = pa.list_(pa.struct([("author_id", pa.string()), ("role", pa.string())]))
_SHELVES = pa.list_(pa.struct([("count", pa.string()), ("name", pa.string())]))
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("book_id", "title", "title_without_series", "description"), pa.string()),
    **dict.fromkeys(("publication_year", "num_pages", "format", "language_code"), pa.string()),
    "publisher": pa.string(),
    "similar_books": _TEXTS,
    "authors": _AUTHORS,
    "popular_shelves": _SHELVES,
}
_COLUMNS = {name: pa.field(name, type_) for name, type_ in _TYPES.items()}
# "The Two Towers (The Lord of the Rings, #2)"; few rows have it cut off already.
_SERIES = re.compile(r"^(.*\S)\s+\(([^()]+?),?\s+#([^()#]+)\)$")
# Shelves that say what a reader did, has or plans, and nothing of the book.
_PERSONAL = re.compile(
    r"to-|read|own|my-|favou?rite|default|library|wish|want|buy|currently|kindle|e-?book|audio"
    r"|challenge|finished|abandoned|dnf|maybe|borrowed|all-time|have|mine|\d{4}"
)
_N_SHELVES = 5
_TEXT_CHARACTERS = 2_000
_LAST_YEAR = 2018


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """Items, and pairs of them that are similar."""

    items: pa.Table
    links: pa.Table | None
    n_rows: int
    """Of the file of books."""


def read_books(paths: Paths, events: pa.Array, spool: Path, *, only_events: bool) -> Books:
    """The books of a file.

    Args:
        paths: to books and authors.
        events: ids of the books that events are about.
        spool: for tables too big for memory.
        only_events: leave out the others.

    Raises:
        DataError: a file is not what its dataset's is.
    """
    writers = _author_names(paths["authors"])
    counts = [0]

    def rows() -> Iterator[pa.Table]:
        for table, _ in json_tables(paths["books"], _COLUMNS):
            counts[0] += len(table)
            if only_events:
                table = table.filter(pc.is_in(table["book_id"], value_set=events))
            books = [_book(record, writers) for record in table.to_pylist()]
            yield pa.Table.from_pylist(books, schema=schema)

    schema = item_schema(ITEM_FIELDS).append(pa.field("similar", _TEXTS))
    books = spooled(spool, schema, rows())
    books = kept(spool, books, first_of_each(books, ["item_id"]))
    items = with_undescribed(books.drop_columns(["similar"]), events)
    return Books(items=items, links=_links(books, items, spool), n_rows=counts[0])


def _author_names(path: Path) -> dict[str, str]:
    columns = {name: pa.field(name, pa.string()) for name in ("author_id", "name")}
    names: dict[str, str] = {}
    for table, _ in json_tables(path, columns):
        names.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return names


def _book(record: Mapping[str, Any], writers: Mapping[str, str]) -> dict[str, Any]:
    item_id = record["book_id"]
    full_title = readable_or_none(record["title"])
    title = readable_or_none(record["title_without_series"]) or full_title or item_id
    series = None
    if found := _SERIES.match(full_title or title):
        series = f"{found[2]} #{found[3]}"
        title = found[1]
    description = readable_or_none(record["description"])
    return {
        "item_id": item_id,
        "title": title,
        "authors": _written_by(record["authors"] or (), writers),
        "shelves": _shelves(record["popular_shelves"] or ()),
        "series": series,
        "year": _whole_number(record["publication_year"], _LAST_YEAR),
        "pages": _whole_number(record["num_pages"], None),
        "format": readable_or_none(record["format"]),
        "language": readable_or_none(record["language_code"]),
        "publisher": readable_or_none(record["publisher"]),
        "description": None if description is None else description[:_TEXT_CHARACTERS],
        "similar": record["similar_books"],
    }


def _written_by(
    authors: tuple[Mapping[str, str], ...], writers: Mapping[str, str]
) -> list[str] | None:
    """Those without a role (illustrator, translator) wrote it; if all have one, all of them."""
    without_role = [author for author in authors if not author["role"]]
    names = [writers.get(author["author_id"], "") for author in without_role or authors]
    return [" ".join(name.split()) for name in names if name] or None


def _shelves(shelves: tuple[Mapping[str, str], ...]) -> list[str] | None:
    names = [shelf["name"] for shelf in shelves if not _PERSONAL.search(shelf["name"])]
    return names[:_N_SHELVES] or None


def _whole_number(text: str | None, limit: int | None) -> float | None:
    number = int(text) if text and text.isdecimal() else 0
    return float(number) if number > 0 and (limit is None or number <= limit) else None


def _links(books: pa.Table, items: pa.Table, spool: Path) -> pa.Table | None:
    """Pairs of which both are among the items."""

    def pairs() -> Iterator[pa.Table]:
        for batch in books.select(["item_id", "similar"]).to_batches():
            parents = pc.list_parent_indices(batch["similar"])
            table = pa.table(
                {
                    "item_id": batch["item_id"].take(parents),
                    "other_id": pc.list_flatten(batch["similar"]),
                }
            )
            is_known_L = codes_of(table["other_id"], items["item_id"]) >= 0
            differs = pc.not_equal(table["item_id"], table["other_id"])
            yield table.filter(pc.and_(pa.array(is_known_L), differs))

    links = spooled(spool, _LINKS, pairs())
    if len(links) == 0:
        return None
    links = kept(spool, links, first_of_each(links, ["item_id", "other_id"]))
    return links.append_column("relation", pa.repeat("similar", len(links)))
