"""Amazon ESCI, the Shopping Queries dataset: people judged what a real query was answered with.

A product is exact, a substitute, a complement, or irrelevant for what was typed.

    esci:us   esci:es   esci:jp                      all judged queries
    esci:us-small   esci:es-small   esci:jp-small    the harder ones, for ranking

Products are those that the variant's queries were judged with. A product's id says nothing across
countries, so each is a corpus of its own.

C. K. Reddy et al., "Shopping Queries Dataset", arXiv:2206.06588; its section 5.1 gives the gains
that are the grades here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_checks import first
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import fetch_files
from data_pipeline.sources.assembly import check_counts, first_of_each, listed, with_undescribed
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.markup import readable_column
from data_pipeline.sources.spool import kept, spool_beside, spooled

LABELS = {
    "E": ("exact", 1.0),
    "S": ("substitute", 0.1),
    "C": ("complement", 0.01),
    "I": ("irrelevant", 0.0),
}
# Queries and judgements: the tables of the repository's README.
PUBLISHED = {
    "us": {"queries": 97_345, "judgements": 1_818_825},
    "es": {"queries": 15_180, "judgements": 356_410},
    "jp": {"queries": 18_127, "judgements": 446_053},
    "us-small": {"queries": 29_844, "judgements": 601_354},
    "es-small": {"queries": 8_049, "judgements": 218_774},
    "jp-small": {"queries": 10_407, "judgements": 297_883},
}
_FIELDS = (
    Field(name="brand", kind="category"),
    Field(name="color", kind="category"),
    Field(name="features", kind="text"),
    Field(name="description", kind="text"),
)
_PRODUCT_COLUMNS = {
    "item_id": "product_id",
    "title": "product_title",
    "brand": "product_brand",
    "color": "product_color",
    "features": "product_bullet_point",
    "description": "product_description",
}
_EXAMPLE_COLUMNS = ("query", "query_id", "product_id", "esci_label", "split")
_ROWS = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Esci(Source):
    """Judged products of Amazon's search."""

    name: str = "esci"
    licence: str = "Apache-2.0 (github.com/amazon-science/esci-data)"
    homepage: str = "https://github.com/amazon-science/esci-data"
    variants: tuple[str, ...] = tuple(PUBLISHED)
    variant: str = ""
    url: str = (
        "https://media.githubusercontent.com/media/amazon-science/esci-data/main/"
        "shopping_queries_dataset"
    )
    # From the pointers that the repository keeps in the files' place.
    sha256: tuple[str, str] = (
        "4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a",
        "25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265",
    )
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: PUBLISHED)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        roles = ("examples", "products")
        return fetch_files(
            self.name,
            {role: f"{self.url}/shopping_queries_dataset_{role}.parquet" for role in roles},
            self.cache(cache_dir),
            sha256=dict(zip(roles, self.sha256, strict=True)),
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        locale, _, version = self.variant.partition("-")
        examples = _examples(paths["examples"], locale, version or "large")
        queries = examples.select(["query_id", "text"])
        queries = queries.filter(pa.array(first_of_each(queries, ["query_id", "text"])))
        found = {"queries": len(queries), "judgements": len(examples)}
        published = self.counts.get(self.variant, {})
        check_counts(self.full_name, found, published, paths["examples"])
        wanted = listed(examples["item_id"])
        with spool_beside(folder) as spool:
            products = _products(paths["products"], locale, wanted)
            items = spooled(spool, item_schema(_FIELDS), products)
            items = kept(spool, items, first_of_each(items, ["item_id"]))
            return write_corpus(
                folder,
                name=self.full_name,
                items=with_undescribed(items, wanted),
                users=None,
                events=None,
                queries=queries,
                judgements=examples.drop_columns(["text"]),
                item_fields=_FIELDS,
                item_noun="product",
                source=f"Shopping Queries Dataset ({self.variant}), {self.homepage}",
                licence=self.licence,
                origins={
                    "items": Origin(files=(str(paths["products"]),), columns=_PRODUCT_COLUMNS)
                },
                overwrite=overwrite,
            )


def _open(path: Path, columns: tuple[str, ...]) -> pq.ParquetFile:
    """A Parquet file that has the columns."""
    with path.open("rb") as file:
        is_pointer = file.read(40).startswith(b"version https://git-lfs")
    if is_pointer:
        raise DataError(
            "this is the repository's pointer to the file, not the file",
            file=path,
            remedy="run `git lfs pull` there, or fetch without --from",
        )
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"the file cannot be read as Parquet: {error}",
            file=path,
            remedy="is it whole? Otherwise remove it and fetch again",
        ) from error
    missing = [column for column in columns if column not in file.schema_arrow.names]
    if missing:
        raise DataError(
            f"there is no such column. The columns are: {', '.join(file.schema_arrow.names)}",
            file=path,
            column=missing[0],
            remedy="is it the dataset's file? Otherwise remove it and fetch again",
        )
    return file


def _examples(path: Path, locale: str, version: str) -> pa.Table:
    """The judgements of a variant, with the text of their queries."""
    flag = f"{version}_version"
    columns = (*_EXAMPLE_COLUMNS, "product_locale", flag)
    table = _open(path, columns).read(columns=list(columns))
    is_chosen = pc.and_(pc.equal(table["product_locale"], locale), pc.equal(table[flag], 1))
    table = table.filter(is_chosen)
    row = first(pc.invert(pc.is_in(table["esci_label"], value_set=pa.array(list(LABELS)))))
    if row is not None:
        raise DataError(
            "there is no such label",
            file=path,
            column="esci_label",
            value=table["esci_label"][row].as_py(),
            remedy=f"a label is one of {', '.join(LABELS)}",
        )
    labels = table["esci_label"].to_pylist()
    return pa.table(
        {
            "query_id": table["query_id"].cast(pa.string()),
            "text": readable_column(table["query"].cast(pa.string())),
            "item_id": table["product_id"].cast(pa.string()),
            "grade": pa.array([LABELS[label][1] for label in labels], pa.float32()),
            "label": pa.array([LABELS[label][0] for label in labels], pa.string()),
            "split": table["split"].cast(pa.string()),
        }
    )


def _products(path: Path, locale: str, wanted: pa.Array) -> Iterator[pa.Table]:
    columns = [*_PRODUCT_COLUMNS.values(), "product_locale"]
    for batch in _open(path, tuple(columns)).iter_batches(batch_size=_ROWS, columns=columns):
        is_wanted = pc.is_in(batch["product_id"].cast(pa.string()), value_set=wanted)
        chosen = pa.Table.from_batches(
            [batch.filter(pc.and_(pc.equal(batch["product_locale"], locale), is_wanted))]
        )
        table = {
            name: readable_column(chosen[column].cast(pa.string()))
            for name, column in _PRODUCT_COLUMNS.items()
        }
        is_untitled = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table["title"], "")), "")
        table["title"] = pc.if_else(is_untitled, table["item_id"], table["title"])
        yield pa.table(table)
