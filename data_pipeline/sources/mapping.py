"""The small YAML that says which columns of a user's files are what."""

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_pipeline.corpus_schema import Field, FieldKind
from data_pipeline.errors import DataError

FileFormat = Literal["auto", "csv", "tsv", "jsonl", "parquet"]
TimestampUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
Text = Annotated[str, StringConstraints(min_length=1)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
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


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class EventColumnsConfig:
    """The file's column for each column of events."""

    user_id: Text = "user_id"
    """Who did it. Read as text: leading zeros stay."""

    item_id: Text = "item_id"
    """To which item. Read as text."""

    timestamp: Text = "timestamp"
    """When."""

    action: Text | None = None
    """What was done: viewed, bought, rated. Without it every event has the `action` beside."""

    value: Text | None = None
    """How much: a rating, a price, seconds watched."""

    request_id: Text | None = None
    """What was shown together: outcomes of one request never explain one another."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class EventsConfig(FileConfig):
    """The file of events."""

    columns: EventColumnsConfig = dataclasses.field(default_factory=EventColumnsConfig)
    """Which column is what."""

    action: Text = "interacted"
    """The action of every event when no column says it."""

    timestamp_unit: TimestampUnit = "auto"
    """s, ms, us or ns since 1970, or iso (ISO 8601; without a zone it is UTC). `auto` finds out and
    refuses a column that mixes them."""

    duplicates: Literal["error", "drop"] = "error"
    """Events with the same user, item, time and action: refuse, or keep the first of each."""

    unknown_ids: Literal["error", "drop"] = "error"
    """Events of an item or user that its file does not list: refuse, or leave out."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class FieldConfig:
    """One column that describes items or users."""

    column: Text
    """The file's column."""

    kind: FieldKind
    """text, category (one value), categories (several), number, or year."""

    separator: Text | None = None
    """Between the values of `kind: categories` in a text column; lists need none."""

    def __post_init__(self) -> None:
        if self.separator is not None and self.kind != "categories":
            raise ValueError(f"a separator goes with kind: categories, not with {self.kind}")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class ItemColumnsConfig:
    """The file's column for each column of items."""

    item_id: Text = "item_id"
    """The id that events refer to. Read as text."""

    title: Text | None = None
    """What a reader would call the item. Without it the id is the title."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class ItemsConfig(FileConfig):
    """The file of items."""

    columns: ItemColumnsConfig = dataclasses.field(default_factory=ItemColumnsConfig)
    """Which column is what."""

    fields: dict[str, FieldConfig] = dataclasses.field(default_factory=dict)
    """What else is known of an item, by the name that prompts are to use."""

    missing_titles: Literal["error", "id"] = "error"
    """An item without a title: refuse, or use its id."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class UserColumnsConfig:
    """The file's column for each column of users."""

    user_id: Text = "user_id"
    """The id that events refer to. Read as text."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class UsersConfig(FileConfig):
    """The file of users."""

    columns: UserColumnsConfig = dataclasses.field(default_factory=UserColumnsConfig)
    """Which column is what."""

    fields: dict[str, FieldConfig] = dataclasses.field(default_factory=dict)
    """What is known of a user, by the name that prompts are to use."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class ImportConfig:
    """A user's own files as a corpus."""

    name: Text
    """The corpus's name."""

    events: EventsConfig
    """What users did: the one file that is always needed."""

    items: ItemsConfig | None = None
    """The items; without it they are made from the events, titled by their ids."""

    users: UsersConfig | None = None
    """The users; without it they are made from the events."""

    item_noun: Text = "item"
    """What one item is called in a prompt: product, film, job."""

    licence: str = ""
    """What may be done with the data; it follows them into every report."""

    source: str = ""
    """Where the data came from."""


def fields_of(table: ItemsConfig | UsersConfig | None) -> tuple[Field, ...]:
    """The corpus fields that a mapping declares, in its order.

    Raises:
        ValueError: a name that cannot be a field's.
    """
    if table is None:
        return ()
    return tuple(Field(name=name, kind=field.kind) for name, field in table.fields.items())


def load_mapping(path: Path) -> ImportConfig:
    """Read and validate a mapping.

    Raises:
        DataError: no such file, no YAML, or a key that is unknown, missing or of the wrong type.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            "the mapping does not exist", file=path, remedy="give the path of a YAML file"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"the mapping is not readable YAML: {error}", file=path, remedy="mend the YAML"
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            "the mapping holds no keys",
            file=path,
            remedy="it needs at least `name` and `events`; see launch/guides/prepare-your-data.md",
        )
    try:
        config = TypeAdapter(ImportConfig).validate_python(content)
        fields_of(config.items), fields_of(config.users)
    except ValidationError as error:
        raise _explained(error, path) from error
    except ValueError as error:
        raise DataError(str(error), file=path, remedy="rename the field in the YAML") from error
    return config


def nearest(name: str, names: typing.Iterable[str]) -> str | None:
    """The most similar of some names, if one is similar at all, whatever the case."""
    by_lower = {known.lower(): known for known in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _explained(error: ValidationError, path: Path) -> DataError:
    """The first thing wrong with a mapping; an unknown key before what its absence causes."""
    problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        known = _keys_at(problem["loc"][:-1])
        name = str(problem["loc"][-1])
        guess = nearest(name, known)
        return DataError(
            f"unknown key '{key}'" + (f": did you mean '{guess}'?" if guess else ""),
            file=path,
            value=problem["input"],
            remedy=f"the keys here are {', '.join(known)}",
        )
    if problem["type"] == "missing":
        return DataError(
            f"the key '{key}' is missing",
            file=path,
            remedy=f"add it; the keys here are {', '.join(_keys_at(problem['loc'][:-1]))}",
        )
    return DataError(
        f"the key '{key}' cannot have this value: {problem['msg']}",
        file=path,
        value=problem["input"],
        remedy="see launch/guides/prepare-your-data.md for every key",
    )


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    """The keys that a mapping may have at a place in it."""
    type_: Any = ImportConfig
    for part in place:
        if dataclasses.is_dataclass(type_):
            type_ = typing.get_type_hints(type_)[str(part)]
        else:
            type_ = typing.get_args(type_)[1]  # dict[str, FieldConfig]
        arguments = typing.get_args(type_)
        if type(None) in arguments:
            type_ = arguments[0]
    return [field.name for field in dataclasses.fields(type_)]
