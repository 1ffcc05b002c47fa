"""Amazon reviews of 2014 (1996 to July 2014): Beauty, Sports, Toys, as TIGER and P5 use them.

The 5-core sets: everyone and everything has five reviews or more. The corpus is made from the
reviews themselves. (The `user_sequence.txt` that goes around for Sports and Toys is sorted by
product id within a user, so what comes next there is no one's taste.) Times are days: reviews of
one day keep the order of the file, which is by product, as in the published baselines.

Product records are Python literals, read as such and never run. Links are those that the shop
showed in 2014, so they know of purchases that fall into test time.

R. He and J. McAuley, "Ups and Downs: Modeling the Visual Evolution of Fashion Trends with
One-Class Collaborative Filtering", WWW 2016.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

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
from data_pipeline.sources.archives import fetch_files
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.markup import readable_column, readable_or_none
from data_pipeline.sources.streams import json_tables

# S. Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, table 6;
# S. Geng et al., "Recommendation as Language Processing" (P5), RecSys 2022, table 1.
PUBLISHED = {
    "Beauty": {"users": 22_363, "items": 12_101, "ratings": 198_502},
    "Sports_and_Outdoors": {"users": 35_598, "items": 18_357, "ratings": 296_337},
    "Toys_and_Games": {"users": 19_412, "items": 11_924, "ratings": 167_597},
}
_RELATIONS = ("also_bought", "also_viewed", "bought_together", "buy_after_viewing")
_COLUMNS = {
    "user_id": pa.field("reviewerID", pa.string()),
    "item_id": pa.field("asin", pa.string()),
    "timestamp": pa.field("unixReviewTime", pa.int64()),
    "value": pa.field("overall", pa.float64()),
    "summary": pa.field("summary", pa.string()),
    "review": pa.field("reviewText", pa.string()),
    "helpful": pa.field("helpful", pa.list_(pa.int64())),
}


@dataclass(frozen=True, kw_only=True)
class AmazonReviews2014(AmazonSource):
    """A 5-core category of the Amazon reviews of 2014."""

    name: str = "amazon-2014"
    licence: str = (
        "the publisher names no licence: research use with citation of McAuley et al., SIGIR 2015 "
        "and He and McAuley, WWW 2016 (cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html)"
    )
    homepage: str = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"
    variants: tuple[str, ...] = tuple(PUBLISHED)
    variant: str = ""
    url: str = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: PUBLISHED)
    """Per variant, what is known of users, items and ratings."""

    product_key: ClassVar[re.Pattern[bytes]] = re.compile(rb"'asin': ?'([^']+)'")
    has_links: ClassVar[bool] = True

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        urls = {
            "events": f"{self.url}/reviews_{self.variant}_5.json.gz",
            "items": f"{self.url}/meta_{self.variant}.json.gz",
        }
        return fetch_files(
            self.full_name, urls, self.cache(cache_dir), from_dir=from_dir, progress=progress
        )

    def published(self) -> Mapping[str, int]:
        return self.counts.get(self.variant, {})

    def rating_tables(self, paths: Paths) -> Iterator[tuple[pa.Table, Origin]]:
        for table, origin in json_tables(paths["events"], _COLUMNS):
            columns = dict(zip(table.column_names, table.columns, strict=True))
            columns["timestamp"] = convert.to_times(table["timestamp"], "s", origin)
            columns["summary"] = readable_column(table["summary"])
            columns["review"] = readable_column(table["review"])
            # [helpful, all] votes; a review that nobody voted on has [0, 0].
            votes = pc.list_slice(table["helpful"], 0, 1, return_fixed_size_list=True)
            columns["helpful"] = pc.list_element(votes, 0)
            yield rated(columns), origin

    def parse(self, line: str) -> Any:
        return ast.literal_eval(line)

    def product(self, record: Mapping[str, Any]) -> Product:
        item_id = record["asin"]
        return {
            "item_id": item_id,
            "title": readable_or_none(record.get("title")) or item_id,
            "categories": category_names(record.get("categories") or []),
            "brand": readable_or_none(record.get("brand")),
            "price": price(record.get("price")),
            "description": text_of(record.get("description")),
        }

    def related(self, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        related = record.get("related") or {}
        for relation in _RELATIONS:
            yield from ((relation, other_id) for other_id in related.get(relation) or ())
