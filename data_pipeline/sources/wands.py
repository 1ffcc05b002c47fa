"""WANDS: what annotators at Wayfair said about 233,448 pairs of a query and a piece of furniture.

Some pairs were judged twice, not always alike: the corpus keeps the higher grade. Texts are as
published: lower case, punctuation apart ("7 qt . slow cooker").

Y. Chen et al., "WANDS: Dataset for Product Search Relevance Assessment", ECIR 2022.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_checks import first
from data_pipeline.sources import convert
from data_pipeline.sources.archives import fetch_files
from data_pipeline.sources.assembly import check_counts, first_of_each
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.mapping import FileConfig
from data_pipeline.sources.markup import readable_column
from data_pipeline.sources.profiles import known
from data_pipeline.sources.readers import read_table

GRADES = {"Exact": 1.0, "Partial": 0.5, "Irrelevant": 0.0}
_FIELDS = (
    Field(name="classes", kind="categories"),
    Field(name="categories", kind="categories"),
    Field(name="description", kind="text"),
    Field(name="features", kind="text"),
    Field(name="average_rating", kind="number"),
    Field(name="ratings", kind="number"),
    Field(name="reviews", kind="number"),
)
_PRODUCT_COLUMNS = {
    "item_id": "product_id",
    "title": "product_name",
    "classes": "product_class",
    "categories": "category hierarchy",
    "description": "product_description",
    "features": "product_features",
    "average_rating": "average_rating",
    "ratings": "rating_count",
    "reviews": "review_count",
}


@dataclass(frozen=True, kw_only=True)
class Wands(Source):
    """Judged products of a furniture shop's search."""

    name: str = "wands"
    licence: str = "MIT (github.com/wayfair/WANDS)"
    homepage: str = "https://github.com/wayfair/WANDS"
    url: str = "https://raw.githubusercontent.com/wayfair/WANDS/main/dataset"
    # From the repository's README.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"queries": 480, "items": 42_994, "judgements": 233_448}
    )

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        names = {"queries": "query.csv", "items": "product.csv", "judgements": "label.csv"}
        urls = {role: f"{self.url}/{name}" for role, name in names.items()}
        return fetch_files(
            self.name, urls, self.cache(cache_dir), from_dir=from_dir, progress=progress
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        queries, query_origin = _read(paths["queries"], {"query_id": "query_id", "text": "query"})
        items, item_origin = _items(paths["items"])
        labels, label_origin = _read(
            paths["judgements"],
            {"query_id": "query_id", "item_id": "product_id", "label": "label"},
        )
        found = {"queries": len(queries), "items": len(items), "judgements": len(labels)}
        check_counts("WANDS", found, self.counts, paths["items"].parent)
        judgements = _graded(labels, label_origin)
        n_repeated = len(labels) - len(judgements)
        return write_corpus(
            folder,
            name=self.name,
            items=items,
            users=None,
            events=None,
            queries=queries,
            judgements=judgements,
            item_fields=_FIELDS,
            item_noun="product",
            source=f"WANDS, {self.homepage}",
            licence=self.licence,
            origins={"items": item_origin, "queries": query_origin},
            dropped={"repeated_judgements": n_repeated} if n_repeated else {},
            overwrite=overwrite,
        )


def _read(path: Path, columns: Mapping[str, str]) -> tuple[pa.Table, Origin]:
    """The files are called .csv and have tabs; texts with quotes or tabs are in quotes."""
    return read_table(FileConfig(path=str(path.absolute()), format="tsv"), columns, Path())


def _items(path: Path) -> tuple[pa.Table, Origin]:
    table, origin = _read(path, _PRODUCT_COLUMNS)
    columns = {
        "item_id": table["item_id"],
        "title": readable_column(table["title"]),
        "classes": _names(table["classes"], "|", "classes", origin),
        "categories": _names(table["categories"], " / ", "categories", origin),
        "description": readable_column(table["description"]),
        "features": _features(table["features"]),
        **{
            name: convert.to_numbers(table[name], name, origin)
            for name in ("average_rating", "ratings", "reviews")
        },
    }
    return pa.table(columns), origin


def _names(column: pa.ChunkedArray, separator: str, name: str, origin: Origin) -> pa.ChunkedArray:
    return convert.to_lists(known(column), separator, name, origin)


def _features(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Attributes as text: "color : oak|capacityquarts:7|" -> "color: oak; capacityquarts: 7"."""
    text = pc.replace_substring_regex(pc.utf8_trim(column, "| "), r" *\| *", "; ")
    return pc.replace_substring_regex(text, r" *: *", ": ")


def _graded(labels: pa.Table, origin: Origin) -> pa.Table:
    """One judgement per query and product: the best of several, in the order of the file."""
    row = first(pc.invert(pc.is_in(labels["label"], value_set=pa.array(list(GRADES)))))
    if row is not None:
        raise origin.error(
            "there is no such label",
            row=row,
            column="label",
            value=labels["label"][row].as_py(),
            remedy=f"a label is one of {', '.join(GRADES)}",
        )
    grade_J = np.array([GRADES[label] for label in labels["label"].to_pylist()], np.float32)
    labels = labels.set_column(2, "label", pc.utf8_lower(labels["label"]))
    labels = labels.append_column("grade", pa.array(grade_J))
    best_first = np.argsort(-grade_J, kind="stable")
    is_best_J = np.zeros(len(labels), dtype=bool)
    is_best_J[best_first] = first_of_each(
        labels.take(pa.array(best_first)), ["query_id", "item_id"]
    )
    return labels.filter(pa.array(is_best_J))
