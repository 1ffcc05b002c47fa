"""What the Amazon review datasets have in common: products, and ratings of them with a review.

Average ratings, numbers of ratings and sales ranks are left out: they were taken when the shop was
crawled, after everything that is asked about.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, Origin, PublishedSplit, write_corpus
from data_pipeline.corpus_checks import check_ids
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.assembly import (
    check_counts,
    first_of_each,
    listed,
    repeated,
    used_fields,
    with_undescribed,
)
from data_pipeline.sources.base import Paths, Source
from data_pipeline.sources.literals import in_tables
from data_pipeline.sources.markup import readable, readable_or_none
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import selected_records

PRODUCT_FIELDS = (
    Field(name="categories", kind="categories"),
    Field(name="brand", kind="category"),
    Field(name="author", kind="category"),
    Field(name="price", kind="number"),
    Field(name="description", kind="text"),
    Field(name="features", kind="text"),
)
REVIEW_FIELDS = (
    Field(name="summary", kind="text"),
    Field(name="review", kind="text"),
    Field(name="helpful", kind="number"),
    Field(name="verified", kind="category"),
)
RATED_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("action", pa.string()),
        ("value", pa.float32()),
        ("summary", pa.string()),
        ("review", pa.string()),
        ("helpful", pa.float64()),
        ("verified", pa.string()),
    ]
)
"""Events before the fields without a value are left out."""

# A prompt's record takes a few dozen words; a catalogue of millions must not hold whole essays.
_TEXT_CHARACTERS = 2_000
_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?")

Product = dict[str, Any]
"""item_id, title, and a value for each of `PRODUCT_FIELDS` that is known."""


class AmazonSource(Source):
    """Ratings in one file or several, and a file with one record per product."""

    product_key: ClassVar[re.Pattern[bytes]]
    """Finds the product's id in a line, in its first group."""

    has_links: ClassVar[bool] = False
    """Whether records name related products."""

    published_split: ClassVar[PublishedSplit | None] = None
    """The publisher's own moments, where it names some."""

    @abstractmethod
    def rating_tables(self, paths: Paths) -> Iterator[tuple[pa.Table, Origin]]:
        """Events as `rated` makes them, in the order of the files, and where they came from.

        Raises:
            DataError: a file is not what its dataset's is.
        """

    @abstractmethod
    def parse(self, line: str) -> Any:
        """The record of a line; ValueError or SyntaxError where there is none."""

    @abstractmethod
    def product(self, record: Mapping[str, Any]) -> Product:
        """The product of a record; KeyError where it has no id."""

    def related(self, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Relation and id of each product that the record names."""
        yield from ()

    @abstractmethod
    def published(self) -> Mapping[str, int]:
        """What of users, items and ratings is known exactly."""

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        with spool_beside(folder) as spool:
            events, origin = self._rated(paths, spool)
            self._check(events, paths)
            events, origin, dropped = _without_odd_ones(events, origin, spool)
            items, links = self._products(paths["items"], listed(events["item_id"]), spool)
            items, item_fields = used_fields(items, PRODUCT_FIELDS)
            events, event_fields = used_fields(events, REVIEW_FIELDS)
            return write_corpus(
                folder,
                name=self.full_name,
                items=items,
                users=pa.table({"user_id": listed(events["user_id"])}),
                events=events,
                item_fields=item_fields,
                event_fields=event_fields,
                links=links,
                item_noun="product",
                source=f"{self.full_name}, {self.homepage}",
                licence=self.licence,
                published_split=self.published_split,
                origins={"events": origin, "items": Origin(files=(str(paths["items"]),))},
                dropped=dropped,
                overwrite=overwrite,
            )

    def _rated(self, paths: Paths, spool: Path) -> tuple[pa.Table, Origin]:
        """All events, spooled, and the place of each row."""
        starts: dict[str, int] = {}
        columns: dict[str, str] = {}
        n_rows = 0

        def pieces() -> Iterator[pa.Table]:
            nonlocal n_rows
            for table, origin in self.rating_tables(paths):
                for column in ("user_id", "item_id"):
                    check_ids(table[column], column, origin)
                starts.setdefault(origin.files[0], n_rows)
                columns.update(origin.columns)
                n_rows += len(table)
                yield table

        events = spooled(spool, RATED_SCHEMA, pieces())
        where = tuple(starts) or tuple(str(path) for path in paths.values())
        return events, Origin(files=where, starts=tuple(starts.values()) or (0,), columns=columns)

    def _check(self, events: pa.Table, paths: Paths) -> None:
        published = self.published()
        found = {"ratings": len(events)}
        if published.keys() - found.keys():
            found["users"] = len(listed(events["user_id"]))
            found["items"] = len(listed(events["item_id"]))
        check_counts(self.full_name, found, published, paths["items"].parent)

    def _products(
        self, path: Path, wanted: pa.Array, spool: Path
    ) -> tuple[pa.Table, pa.Table | None]:
        """The wanted products, those without a record titled by their ids, and their links."""
        schema = item_schema(PRODUCT_FIELDS)
        known = frozenset(wanted.to_pylist()) if self.has_links else frozenset()
        links: list[tuple[str, str, str]] = []

        def rows() -> Iterator[Product]:
            for number, record in selected_records(path, self.product_key, wanted, self.parse):
                try:
                    row = self.product(record)
                except KeyError as error:
                    message = f"the record has no {error}"
                    raise DataError(message, file=path, row=number, value=record) from error
                item_id = row["item_id"]
                links.extend(
                    (item_id, other_id, relation)
                    for relation, other_id in self.related(record)
                    if other_id in known and other_id != item_id
                )
                yield row

        items = spooled(spool, schema, in_tables(rows(), schema))
        items = kept(spool, items, first_of_each(items, ["item_id"]))
        return with_undescribed(items, wanted), _link_table(links)


def _link_table(links: list[tuple[str, str, str]]) -> pa.Table | None:
    if not links:
        return None
    columns = zip(*dict.fromkeys(links), strict=True)
    return pa.table(
        dict(zip(("item_id", "other_id", "relation"), map(pa.array, columns), strict=True))
    )


def _without_odd_ones(
    events: pa.Table, origin: Origin, spool: Path
) -> tuple[pa.Table, Origin, dict[str, int]]:
    """Leave out ratings that are none (a handful in tens of millions) and exact repetitions."""
    is_rating = pc.and_(pc.greater_equal(events["value"], 1), pc.less_equal(events["value"], 5))
    is_rating_E = pc.fill_null(is_rating, False).to_numpy()
    keep_E = is_rating_E & ~repeated(events)
    dropped = {
        "invalid_ratings": int((~is_rating_E).sum()),
        "duplicates": int((is_rating_E & ~keep_E).sum()),
    }
    if keep_E.all():
        return events, origin, {}
    return kept(spool, events, keep_E), origin.kept(keep_E), dropped


def rated(columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Ratings as events of `RATED_SCHEMA`; what is not given is null."""
    n_events = len(columns["user_id"])
    given = {"action": pa.chunked_array([pa.repeat("rated", n_events)]), **columns}
    return pa.table(
        {
            field.name: given[field.name].cast(field.type)
            if field.name in given
            else pa.nulls(n_events, field.type)
            for field in RATED_SCHEMA
        }
    )


def price(value: object) -> float | None:
    """A price as a number, of a range its lower end; None where there is none.

    "$1,299.00" -> 1299.0, "from 14.99" -> 14.99, "None" -> None
    """
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    found = _PRICE.search(value) if isinstance(value, str) else None
    return None if found is None else float(found[0].replace(",", ""))


def category_names(paths: Sequence[Sequence[str]]) -> list[str] | None:
    """The categories of some paths from the shop's root, without the root, each once.

    [["Beauty", "Hair Care"], ["Beauty", "Hair Care", "Combs"]] -> ["Hair Care", "Combs"]
    """
    names = [readable(name) for path in paths for name in (path[1:] or path)]
    return list(dict.fromkeys(name for name in names if name)) or None


def text_of(parts: object) -> str | None:
    """Readable text of one stored text or of several, cut where no prompt reads on."""
    texts = parts if isinstance(parts, list) else [parts]
    whole = " ".join(text for part in texts if (text := readable_or_none(part)))
    return whole[:_TEXT_CHARACTERS].rstrip() or None
