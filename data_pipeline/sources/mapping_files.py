"""The parts of a mapping that every table's section has."""

from typing import Annotated, Literal

from pydantic import ConfigDict, StringConstraints
from pydantic.dataclasses import dataclass

from data_pipeline.corpus_schema import FieldKind

FileFormat = Literal["auto", "csv", "tsv", "jsonl", "parquet"]
TimestampUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
Text = Annotated[str, StringConstraints(min_length=1)]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class FileConfig:
    """Where a table's rows are and how they are written."""

    path: Text
    """A file, a pattern such as `logs/*.parquet`, or a URL that fsspec opens (`s3://…`). Relative
    to the folder of the YAML. `.gz`, `.bz2`, `.xz` and `.zst` are unpacked on the way."""

    format: FileFormat = "auto"
    """`auto` goes by the ending: .csv, .tsv, .jsonl or .ndjson, .parquet."""

    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """Between the columns of csv and tsv; by default a comma and a tab."""

    quote: Annotated[str, StringConstraints(max_length=1)] = '"'
    """Around values of csv and tsv that hold delimiters or line breaks; empty: quotes are text."""

    encoding: Text = "utf-8"
    """Of csv, tsv and jsonl."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RowsConfig(FileConfig):
    """Where the rows of a log are, and what may be left out of it."""

    duplicates: Literal["error", "drop"] = "error"
    """Rows that say the same thing twice, such as events with the same user, item, time and action:
    refuse, or keep the first of each."""

    unknown_ids: Literal["error", "drop"] = "error"
    """Rows of an item, user or query that its file does not list: refuse, or leave out."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class FieldConfig:
    """One column that describes items, users or events."""

    column: Text
    """The file's column."""

    kind: FieldKind
    """text, category (one value), categories (several), number, or year."""

    separator: Text | None = None
    """Between the values of `kind: categories` in a text column; lists need none."""

    def __post_init__(self) -> None:
        if self.separator is not None and self.kind != "categories":
            raise ValueError(f"a separator goes with kind: categories, not with {self.kind}")
