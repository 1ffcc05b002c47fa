"""The Yelp Open Dataset: reviews and tips of businesses in eleven cities, 2005 to 2022.

Average stars and counts of businesses and people are left out: they were taken after everything
that is asked about. So are photos, friends and check-ins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.corpus_checks import Origin, first
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import files_from, find_files, unpack
from data_pipeline.sources.assembly import (
    check_counts,
    listed,
    repeated,
    used_fields,
    with_undescribed,
)
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.profiles import described
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import json_tables

_FILES = {
    role: f"yelp_academic_dataset_{name}.json"
    for role, name in {
        "items": "business",
        "events": "review",
        "tips": "tip",
        "users": "user",
    }.items()
}
_TAR = "yelp_dataset.tar"
_ZIPPED_TAR = f"Yelp JSON/{_TAR}"
_TIME = pa.timestamp("ms", "UTC")


def _texts(columns: Mapping[str, str]) -> dict[str, pa.Field]:
    return {name: pa.field(column, pa.string()) for name, column in columns.items()}


_REVIEWS = {
    **_texts({"user_id": "user_id", "item_id": "business_id", "review": "text", "date": "date"}),
    "value": pa.field("stars", pa.float64()),
    "helpful": pa.field("useful", pa.float64()),
}
_TIPS = {name: _REVIEWS[name] for name in ("user_id", "item_id", "review", "date")}
_EVENT_FIELDS = (Field(name="helpful", kind="number"), Field(name="review", kind="text"))
_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _TIME),
        ("action", pa.string()),
        ("value", pa.float32()),
        ("helpful", pa.float64()),
        ("review", pa.string()),
    ]
)
_BUSINESSES = {
    **_texts(
        {
            "item_id": "business_id",
            "title": "name",
            "categories": "categories",
            "city": "city",
            "state": "state",
        }
    ),
    "attributes": pa.field("attributes", pa.struct([("RestaurantsPriceRange2", pa.string())])),
}
_ITEM_FIELDS = (
    Field(name="categories", kind="categories"),
    Field(name="city", kind="category"),
    Field(name="state", kind="category"),
    Field(name="price_range", kind="category"),
)
_PRICES = pa.array(["1", "2", "3", "4"])
_PRICE_WORDS = pa.chunked_array([["cheap", "moderate", "expensive", "very expensive"]])
_PEOPLE = _texts({"user_id": "user_id", "since": "yelping_since"})


def _counts() -> dict[str, int]:
    """The publisher's page, for the release of 2022 that is still the current one."""
    return {"businesses": 150_346, "reviews": 6_990_280, "users": 1_987_897, "tips": 908_915}


@dataclass(frozen=True, kw_only=True)
class Yelp(Source):
    """The Yelp Open Dataset."""

    name: str = "yelp"
    licence: str = (
        "Yelp's dataset terms: academic and personal use, no redistribution, no commercial use; "
        "agree to them where you download (business.yelp.com/data/resources/open-dataset)"
    )
    homepage: str = "https://business.yelp.com/data/resources/open-dataset/"
    counts: Mapping[str, int] = field(default_factory=_counts)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        remedy = (
            f"open {self.homepage}, agree to the terms, download the JSON archive, and use --from "
            "with the folder it is in"
        )
        if from_dir is None:
            raise DataError(
                "Yelp gives its dataset only to people who agree to its terms in a browser",
                file=self.homepage,
                remedy=remedy,
            )
        cache = self.cache(cache_dir)
        if (found := find_files(from_dir, _FILES)) is not None:
            return found
        # The zip holds a tar; whoever unpacked the one has the other.
        if (zipped := next(iter(sorted(from_dir.glob("Yelp*JSON*.zip"))), None)) is not None:
            unpacked = cache / "tar"
            unpack(zipped, {"tar": _ZIPPED_TAR}, unpacked)
            from_dir = unpacked / "Yelp JSON"
        return files_from(self.name, from_dir, cache, members=_FILES, archive=_TAR)

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        counts = dict.fromkeys(("reviews", "tips", "users"), 0)
        with spool_beside(folder) as spool:
            rows = spooled(spool, _EVENTS, _events(paths, counts))
            events = kept(spool, rows, ~repeated(rows))
            items = pa.concat_tables(_businesses(paths["items"]))
            people = spooled(spool, _PEOPLE_SCHEMA, _people(paths["users"]))
            found = {**counts, "businesses": len(items), "users": len(people)}
            check_counts(self.name, found, self.counts, paths["events"].parent)
            items, item_fields = used_fields(
                with_undescribed(items, listed(events["item_id"])), _ITEM_FIELDS
            )
            return write_corpus(
                folder,
                name=self.full_name,
                items=items,
                users=described(listed(events["user_id"]), people, "user_id"),
                events=events,
                item_fields=item_fields,
                user_fields=(Field(name="member_since", kind="year"),),
                event_fields=_EVENT_FIELDS,
                item_noun="business",
                source=f"Yelp Open Dataset, {self.homepage}",
                licence=self.licence,
                dropped={"duplicates": len(rows) - len(events)},
                overwrite=overwrite,
            )


_PEOPLE_SCHEMA = pa.schema([("user_id", pa.string()), ("member_since", pa.float64())])


def _events(paths: Paths, counts: dict[str, int]) -> Iterator[pa.Table]:
    """Reviews with stars, then tips, which have none."""
    for table, origin in json_tables(paths["events"], _REVIEWS):
        counts["reviews"] += len(table)
        yield _written(table, "reviewed", origin)
    for table, origin in json_tables(paths["tips"], _TIPS):
        counts["tips"] += len(table)
        nothing = pa.nulls(len(table), pa.float64())
        table = table.append_column("value", nothing).append_column("helpful", nothing)
        yield _written(table, "tipped", origin)


def _written(table: pa.Table, action: str, origin: Origin) -> pa.Table:
    columns = dict(zip(table.column_names, table.columns, strict=True))
    times = pc.strptime(
        columns.pop("date"), format="%Y-%m-%d %H:%M:%S", unit="s", error_is_null=True
    )
    if (row := first(pc.is_null(times))) is not None:
        raise origin.error(
            "the date is not year-month-day hour:minute:second",
            row=row,
            column="date",
            value=table["date"][row].as_py(),
            remedy="is it this dataset's file? Otherwise download it again",
        )
    columns["timestamp"] = times.cast(pa.timestamp("ms")).cast(_TIME)
    return pa.table({**columns, "action": pa.repeat(action, len(table))})


def _businesses(path: Path) -> Iterator[pa.Table]:
    for table, _ in json_tables(path, _BUSINESSES):
        price = pc.struct_field(table["attributes"], "RestaurantsPriceRange2")
        columns = {
            "item_id": table["item_id"],
            "title": table["title"],
            "categories": pc.split_pattern(table["categories"], ", "),
            "city": table["city"],
            "state": table["state"],
            "price_range": _PRICE_WORDS.take(pc.index_in(price, value_set=_PRICES)),
        }
        yield pa.table(columns).cast(item_schema(_ITEM_FIELDS))


def _people(path: Path) -> Iterator[pa.Table]:
    for table, _ in json_tables(path, _PEOPLE):
        year = pc.utf8_slice_codeunits(table["since"], 0, 4)
        yield pa.table({"user_id": table["user_id"], "member_since": year.cast(pa.float64())})
