"""The canonical tables' columns and the card that describes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

FieldKind = Literal["text", "category", "categories", "number", "year"]
SCHEMA_VERSION = 1
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
EVENT_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("value", pa.float32()),
        pa.field("request_id", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One column that describes an item or a user.

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
    actions: tuple[str, ...]
    """Distinct actions of events, sorted."""
    values: tuple[float, ...]
    """Distinct values of events, ascending; empty where events carry none."""
    counts: dict[str, int]
    """Rows of items, users and events; `dropped_...` where the import left events out."""
    fingerprint: str
    """Hash of the tables' content and the declared fields, whatever the file encoding."""
    schema_version: int = SCHEMA_VERSION


def item_schema(fields: Sequence[Field]) -> pa.Schema:
    """Columns of the items table."""
    ids = [pa.field(name, pa.string(), nullable=False) for name in ("item_id", "title")]
    return pa.schema([*ids, *_field_columns(fields)])


def user_schema(fields: Sequence[Field]) -> pa.Schema:
    """Columns of the users table."""
    return pa.schema([pa.field("user_id", pa.string(), nullable=False), *_field_columns(fields)])


def _field_columns(fields: Sequence[Field]) -> list[pa.Field]:
    names = [field.name for field in fields]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"fields declared twice: {', '.join(repeated)}")
    return [pa.field(field.name, _ARROW_TYPES[field.kind]) for field in fields]
