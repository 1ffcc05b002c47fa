"""The canonical tables' columns and the card that describes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

FieldKind = Literal["text", "category", "categories", "number", "year"]
EVENT_FIELD_KINDS = ("text", "category", "number")
SCHEMA_VERSION = 2
UNKNOWN_TIME = -1
"""What stands for a missing time where times are whole numbers of milliseconds since 1970."""
RESERVED_NAMES = frozenset(
    ("item_id", "user_id", "title", "timestamp", "action", "value", "request_id")
)
_ARROW_TYPES: Mapping[str, pa.DataType] = {
    "text": pa.string(),
    "category": pa.string(),
    "categories": pa.list_(pa.string()),
    "number": pa.float64(),
    "year": pa.float64(),
}
_TIME = pa.timestamp("ms", "UTC")


def _needed(name: str, type_: pa.DataType | None = None) -> pa.Field:
    return pa.field(name, type_ or pa.string(), nullable=False)


def _optional(name: str, type_: pa.DataType | None = None) -> pa.Field:
    return pa.field(name, type_ or pa.string())


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """What must hold of a table that a corpus may have beside its items, users and events."""

    row: str
    """What one of its rows is called in messages."""
    schema: pa.Schema
    ids: Mapping[str, str]
    """Column -> the table whose ids it holds."""
    labels: tuple[str, ...]
    """Text columns of few distinct values: tidied, and empty only where they may be missing."""
    key: tuple[str, ...]
    """Two rows alike in all of these say the same thing twice."""


EVENT_SCHEMA = pa.schema(
    [
        _needed("user_id"),
        _needed("item_id"),
        _optional("timestamp", _TIME),
        _needed("action"),
        _optional("value", pa.float32()),
        _optional("request_id"),
    ]
)
QUERY_SCHEMA = pa.schema([_needed("query_id"), _needed("text")])
OPTIONAL_TABLES: Mapping[str, TableSpec] = {
    "queries": TableSpec(row="query", schema=QUERY_SCHEMA, ids={}, labels=(), key=("query_id",)),
    "judgements": TableSpec(
        row="judgement",
        schema=pa.schema(
            [
                _needed("query_id"),
                _needed("item_id"),
                _needed("grade", pa.float32()),
                _optional("label"),
                _optional("split"),
            ]
        ),
        ids={"query_id": "queries", "item_id": "items"},
        labels=("label", "split"),
        key=("query_id", "item_id", "grade", "label", "split"),
    ),
    "searches": TableSpec(
        row="search",
        schema=pa.schema(
            [
                _needed("user_id"),
                _needed("query_id"),
                _optional("timestamp", _TIME),
                _optional("item_id"),
                _needed("action"),
                _optional("request_id"),
                _optional("position", pa.float32()),
            ]
        ),
        ids={"user_id": "users", "query_id": "queries", "item_id": "items"},
        labels=("action",),
        key=("user_id", "query_id", "timestamp", "item_id", "action", "request_id"),
    ),
    "tags": TableSpec(
        row="tag",
        schema=pa.schema(
            [
                _needed("item_id"),
                _needed("tag"),
                _optional("user_id"),
                _optional("timestamp", _TIME),
                _optional("weight", pa.float32()),
            ]
        ),
        ids={"item_id": "items", "user_id": "users"},
        labels=("tag",),
        key=("item_id", "tag", "user_id", "timestamp"),
    ),
    "links": TableSpec(
        row="link",
        schema=pa.schema(
            [
                _needed("item_id"),
                _needed("other_id"),
                _needed("relation"),
                _optional("weight", pa.float32()),
            ]
        ),
        ids={"item_id": "items", "other_id": "items"},
        labels=("relation",),
        key=("item_id", "other_id", "relation"),
    ),
}
PUBLISHED_SPLITS = ("train", "validation", "test")
"""What the column `split` of judgements may hold."""
ID_COLUMNS: Mapping[str, str] = {"items": "item_id", "users": "user_id", "queries": "query_id"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One column that describes an item, a user or an event.

    Raises:
        ValueError: the kind is unknown, or the name cannot be a column's.
    """

    name: str
    kind: FieldKind
    """text, category (one value), categories (a list), number, or year."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FieldKind):
            raise ValueError(
                f"field '{self.name}' has kind '{self.kind}': choose one of "
                f"{', '.join(get_args(FieldKind))}"
            )
        if not self.name.isidentifier() or self.name in RESERVED_NAMES:
            raise ValueError(
                f"'{self.name}' cannot name a field: use letters, digits and underscores, and none "
                f"of {', '.join(sorted(RESERVED_NAMES))}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSplit:
    """Moments in milliseconds since 1970 at which a dataset's publisher divides its events.

    Raises:
        ValueError: there is none, or they are not in their order.
    """

    train_end: int | None = None
    """The published validation set begins here; None where there is none but the test set."""
    validation_end: int | None = None
    """The published test set begins here; None where there is none."""

    def __post_init__(self) -> None:
        moments = [end for end in (self.train_end, self.validation_end) if end is not None]
        if not moments or moments != sorted(set(moments)):
            raise ValueError(f"a split is at one moment or at two in their order, not at {moments}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusCard:
    """What is known about a corpus without reading its tables."""

    name: str
    item_noun: str
    """What one item is called in a prompt: "film", "product"."""
    source: str
    """Where the data came from."""
    licence: str
    item_fields: tuple[Field, ...]
    user_fields: tuple[Field, ...]
    event_fields: tuple[Field, ...]
    has_times: bool
    """Whether it is known when events happened; if not, no event has a time."""
    actions: tuple[str, ...]
    """Distinct actions of events, sorted."""
    values: tuple[float, ...]
    """Distinct values of events, ascending; empty where events carry none."""
    counts: dict[str, int]
    """Rows of every table that there is; `dropped_...` where the import left rows out."""
    fingerprint: str
    """Hash of the tables' content and the declared fields, whatever the file encoding."""
    published_split: PublishedSplit | None = None
    """Where results on these data are usually compared; a store's split says what it went by."""
    schema_version: int = SCHEMA_VERSION


def item_schema(fields: Sequence[Field]) -> pa.Schema:
    """Columns of the items table."""
    return pa.schema([_needed("item_id"), _needed("title"), *_field_columns(fields)])


def user_schema(fields: Sequence[Field]) -> pa.Schema:
    """Columns of the users table."""
    return pa.schema([_needed("user_id"), *_field_columns(fields)])


def event_schema(fields: Sequence[Field]) -> pa.Schema:
    """Columns of the events table.

    Raises:
        ValueError: a field of a kind that events cannot have.
    """
    for field in fields:
        if field.kind not in EVENT_FIELD_KINDS:
            raise ValueError(
                f"event field '{field.name}' has kind '{field.kind}': an event's is one of "
                f"{', '.join(EVENT_FIELD_KINDS)}"
            )
    return pa.schema([*EVENT_SCHEMA, *_field_columns(fields)])


def schemas(
    item_fields: Sequence[Field], user_fields: Sequence[Field], event_fields: Sequence[Field]
) -> dict[str, pa.Schema]:
    """Columns of every table that a corpus may have, by the table's name."""
    return {
        "items": item_schema(item_fields),
        "users": user_schema(user_fields),
        "events": event_schema(event_fields),
        **{name: spec.schema for name, spec in OPTIONAL_TABLES.items()},
    }


def _field_columns(fields: Sequence[Field]) -> list[pa.Field]:
    names = [field.name for field in fields]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"fields declared twice: {', '.join(repeated)}")
    return [pa.field(field.name, _ARROW_TYPES[field.kind]) for field in fields]
