"""Amazon Reviews 2023 (May 1996 to September 2023): any of 33 categories, and the unknown rest.

    amazon-2023:Office_Products          all reviews, with their texts
    amazon-2023:Office_Products-0core    the benchmark: the earliest rating of every user and item
    amazon-2023:Office_Products-5core    of these, where everyone and everything has five or more

The benchmark's two splits follow from time and order, which the corpus keeps as published:
"last_out" is `--split leave_last` (for users with three events or more), "timestamp" is `--split
published`, whose moments are `VALIDATION_STARTS` and `TEST_STARTS`. Its three files per split are
taken too, in place of the one file before the split.

Y. Hou et al., "Bridging Language and Items for Retrieval and Recommendation", arXiv:2403.03952.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import PublishedSplit
from data_pipeline.corpus_checks import Origin
from data_pipeline.sources import convert
from data_pipeline.sources.amazon import (
    AmazonSource,
    Product,
    category_names,
    price,
    rated,
    text_of,
)
from data_pipeline.sources.archives import fetch_files, find_files
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.markup import readable_column, readable_or_none
from data_pipeline.sources.profiles import yes_no
from data_pipeline.sources.streams import csv_tables, json_tables

VALIDATION_STARTS = 1_628_643_414_042
"""Milliseconds since 1970 (August 2021): ratings before are the published training set."""
TEST_STARTS = 1_658_002_729_837
"""Milliseconds since 1970 (July 2022): ratings from here on are the published test set."""

# Reviews per category, as counted in the published files; their sum is the published 571.54 M.
REVIEWS = {
    "All_Beauty": 701_528,
    "Amazon_Fashion": 2_500_939,
    "Appliances": 2_128_605,
    "Arts_Crafts_and_Sewing": 8_966_758,
    "Automotive": 19_955_450,
    "Baby_Products": 6_028_884,
    "Beauty_and_Personal_Care": 23_911_390,
    "Books": 29_475_453,
    "CDs_and_Vinyl": 4_827_273,
    "Cell_Phones_and_Accessories": 20_812_945,
    "Clothing_Shoes_and_Jewelry": 66_033_346,
    "Digital_Music": 130_434,
    "Electronics": 43_886_944,
    "Gift_Cards": 152_410,
    "Grocery_and_Gourmet_Food": 14_318_520,
    "Handmade_Products": 664_162,
    "Health_and_Household": 25_631_345,
    "Health_and_Personal_Care": 494_121,
    "Home_and_Kitchen": 67_409_944,
    "Industrial_and_Scientific": 5_183_005,
    "Kindle_Store": 25_577_616,
    "Magazine_Subscriptions": 71_497,
    "Movies_and_TV": 17_328_314,
    "Musical_Instruments": 3_017_439,
    "Office_Products": 12_845_712,
    "Patio_Lawn_and_Garden": 16_490_047,
    "Pet_Supplies": 16_827_862,
    "Software": 4_880_181,
    "Sports_and_Outdoors": 19_595_170,
    "Subscription_Boxes": 16_216,
    "Tools_and_Home_Improvement": 26_982_256,
    "Toys_and_Games": 16_260_406,
    "Unknown": 63_814_110,
    "Video_Games": 4_624_615,
}
# Users, items and ratings of 5-core categories, as several papers that use the files give them.
FIVE_CORE = {
    "Baby_Products": (150_777, 36_013, 1_241_083),
    "Beauty_and_Personal_Care": (729_576, 207_649, 6_624_441),
    "Books": (776_370, 495_063, 9_488_297),
    "CDs_and_Vinyl": (123_876, 89_370, 1_552_764),
    "Health_and_Household": (796_054, 184_346, 7_176_552),
    "Industrial_and_Scientific": (50_985, 25_848, 412_947),
    "Musical_Instruments": (57_439, 24_587, 511_836),
    "Office_Products": (223_308, 77_551, 1_800_878),
    "Video_Games": (94_762, 25_612, 814_586),
}
CORES = ("0core", "5core")


def _published() -> dict[str, dict[str, int]]:
    whole = {category: {"ratings": count} for category, count in REVIEWS.items()}
    kinds = ("users", "items", "ratings")
    cores = {f"{name}-5core": dict(zip(kinds, row, strict=True)) for name, row in FIVE_CORE.items()}
    return {**whole, **cores}


_SPLITS = ("train", "valid", "test")
_BENCHMARK_COLUMNS = {
    "user_id": "user_id",
    "item_id": "parent_asin",
    "value": "rating",
    "timestamp": "timestamp",
}
_REVIEW_COLUMNS = {
    "user_id": pa.field("user_id", pa.string()),
    "item_id": pa.field("parent_asin", pa.string()),
    "timestamp": pa.field("timestamp", pa.int64()),
    "value": pa.field("rating", pa.float64()),
    "summary": pa.field("title", pa.string()),
    "review": pa.field("text", pa.string()),
    "helpful": pa.field("helpful_vote", pa.int64()),
    "verified": pa.field("verified_purchase", pa.bool_()),
}
# Milliseconds below this are before March 1973, when there was no shop: such a time is in seconds.
_SECONDS_BELOW = 10**11


@dataclass(frozen=True, kw_only=True)
class AmazonReviews2023(AmazonSource):
    """A category of the Amazon reviews of 2023."""

    name: str = "amazon-2023"
    licence: str = (
        "the publisher names no licence: research use with citation of Hou et al., 2024 "
        "(amazon-reviews-2023.github.io)"
    )
    homepage: str = "https://amazon-reviews-2023.github.io"
    variants: tuple[str, ...] = tuple(
        f"{category}{core}"
        for category in REVIEWS
        for core in ("", *(f"-{core}" for core in CORES))
    )
    variant: str = ""
    url: str = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=_published)
    """Per variant, what is known of users, items and ratings."""

    product_key: ClassVar[re.Pattern[bytes]] = re.compile(rb'"parent_asin": ?"([^"]+)"')
    published_split: ClassVar[PublishedSplit | None] = PublishedSplit(
        train_end=VALIDATION_STARTS, validation_end=TEST_STARTS
    )

    @property
    def category(self) -> str:
        return self.variant.partition("-")[0]

    @property
    def core(self) -> str:
        """Either "0core" or "5core"; empty for all reviews."""
        return self.variant.partition("-")[2]

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        items = {"items": f"{self.url}/raw/meta_categories/meta_{self.category}.jsonl.gz"}
        if not self.core:
            events = {"events": f"{self.url}/raw/review_categories/{self.category}.jsonl.gz"}
        else:
            name = f"{self.category}.csv.gz"
            events = {"events": f"{self.url}/benchmark/{self.core}/rating_only/{name}"}
        if from_dir is not None and self.core:
            parts = {split: f"{self.category}.{split}.csv.gz" for split in _SPLITS}
            parts["items"] = f"meta_{self.category}.jsonl.gz"
            if (found := find_files(from_dir, parts)) is not None:
                return found
        cache = self.cache(cache_dir)
        # The two benchmarks name their files alike.
        event_cache = cache / self.core if self.core else cache
        if from_dir is not None:
            return fetch_files(self.full_name, events | items, cache, from_dir=from_dir)
        return {
            **fetch_files(self.full_name, events, event_cache, progress=progress),
            **fetch_files(self.full_name, items, cache, progress=progress),
        }

    def published(self) -> Mapping[str, int]:
        return self.counts.get(self.variant, {})

    def rating_tables(self, paths: Paths) -> Iterator[tuple[pa.Table, Origin]]:
        if not self.core:
            yield from _reviews(paths["events"])
            return
        roles = ["events"] if "events" in paths else list(_SPLITS)
        for role in roles:
            yield from _benchmark(paths[role])

    def parse(self, line: str) -> Any:
        return json.loads(line)

    def product(self, record: Mapping[str, Any]) -> Product:
        item_id = record["parent_asin"]
        details = record.get("details")
        brand = details.get("Brand") if isinstance(details, dict) else None
        author = record.get("author")  # of books: a record about the author
        return {
            "item_id": item_id,
            "title": readable_or_none(record.get("title")) or item_id,
            "categories": category_names([record.get("categories") or []]),
            "brand": readable_or_none(brand) or readable_or_none(record.get("store")),
            "author": readable_or_none(author.get("name") if isinstance(author, dict) else author),
            "price": price(record.get("price")),
            "description": text_of(record.get("description")),
            "features": text_of(record.get("features")),
        }


def _reviews(path: Path) -> Iterator[tuple[pa.Table, Origin]]:
    for table, origin in json_tables(path, _REVIEW_COLUMNS):
        columns = dict(zip(table.column_names, table.columns, strict=True))
        columns["timestamp"] = _times(table["timestamp"], origin)
        columns["summary"] = readable_column(table["summary"])
        columns["review"] = readable_column(table["review"])
        columns["verified"] = yes_no(table["verified"])
        yield rated(columns), origin


def _benchmark(path: Path) -> Iterator[tuple[pa.Table, Origin]]:
    for table, origin in csv_tables(path, _BENCHMARK_COLUMNS):
        columns = dict(zip(table.column_names, table.columns, strict=True))
        columns["value"] = convert.to_numbers(table["value"], "value", origin)
        numbers = convert.to_numbers(table["timestamp"], "timestamp", origin)
        columns["timestamp"] = _times(numbers.cast(pa.int64()), origin)
        yield rated(columns), origin


def _times(numbers: pa.ChunkedArray, origin: Origin) -> pa.ChunkedArray:
    is_seconds = pc.less(numbers, _SECONDS_BELOW)
    in_ms = pc.if_else(is_seconds, pc.multiply(numbers, 1000), numbers)
    return convert.to_times(in_ms, "ms", origin)
