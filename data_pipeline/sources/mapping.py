"""The small YAML that says which columns of a user's files are what."""

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_pipeline.corpus_schema import Field, schemas
from data_pipeline.errors import DataError
from data_pipeline.sources.mapping_files import (
    STRICT,
    FieldConfig,
    FileConfig,
    RowsConfig,
    Text,
    TimestampUnit,
)
from data_pipeline.sources.mapping_tables import (
    JudgementsConfig,
    LinksConfig,
    QueriesConfig,
    SearchesConfig,
    TagsConfig,
)

__all__ = [
    "EventsConfig",
    "FieldConfig",
    "FileConfig",
    "ImportConfig",
    "ItemsConfig",
    "TimestampUnit",
    "UsersConfig",
    "fields_of",
    "load_mapping",
    "nearest",
]


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class EventColumnsConfig:
    """The file's column for each column of events."""

    user_id: Text = "user_id"
    """Who did it. Read as text: leading zeros stay."""

    item_id: Text = "item_id"
    """To which item. Read as text."""

    timestamp: Text | None = "timestamp"
    """When; null where it is not known of any event."""

    action: Text | None = None
    """What was done: viewed, bought, rated. Without it every event has the `action` beside."""

    value: Text | None = None
    """How much: a rating, a price, seconds watched."""

    request_id: Text | None = None
    """What was shown together: outcomes of one request never explain one another."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class EventsConfig(RowsConfig):
    """The file of events."""

    columns: EventColumnsConfig = dataclasses.field(default_factory=EventColumnsConfig)
    """Which column is what."""

    fields: dict[str, FieldConfig] = dataclasses.field(default_factory=dict)
    """What else is known of an event: text, category or number."""

    action: Text = "interacted"
    """The action of every event when no column says it."""

    timestamp_unit: TimestampUnit = "auto"
    """s, ms, us or ns since 1970, or iso (ISO 8601; without a zone it is UTC). `auto` finds out and
    refuses a column that mixes them."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ItemColumnsConfig:
    """The file's column for each column of items."""

    item_id: Text = "item_id"
    """The id that events refer to. Read as text."""

    title: Text | None = None
    """What a reader would call the item. Without it the id is the title."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ItemsConfig(FileConfig):
    """The file of items."""

    columns: ItemColumnsConfig = dataclasses.field(default_factory=ItemColumnsConfig)
    """Which column is what."""

    fields: dict[str, FieldConfig] = dataclasses.field(default_factory=dict)
    """What else is known of an item, by the name that prompts are to use."""

    missing_titles: Literal["error", "id"] = "error"
    """An item without a title: refuse, or use its id."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class UserColumnsConfig:
    """The file's column for each column of users."""

    user_id: Text = "user_id"
    """The id that events refer to. Read as text."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class UsersConfig(FileConfig):
    """The file of users."""

    columns: UserColumnsConfig = dataclasses.field(default_factory=UserColumnsConfig)
    """Which column is what."""

    fields: dict[str, FieldConfig] = dataclasses.field(default_factory=dict)
    """What is known of a user, by the name that prompts are to use."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ImportConfig:
    """A user's own files as a corpus."""

    name: Text
    """The corpus's name."""

    events: EventsConfig | None = None
    """What users did; may only be missing where another log says something of the items."""

    items: ItemsConfig | None = None
    """The items; without it they are made from the events, titled by their ids."""

    users: UsersConfig | None = None
    """The users; without it they are made from the events."""

    queries: QueriesConfig | None = None
    """What people typed; without it queries are made from judgements and searches, whose ids are
    then what was typed."""

    judgements: JudgementsConfig | None = None
    """How relevant items are to queries."""

    searches: SearchesConfig | None = None
    """Who searched for what, and what became of it."""

    tags: TagsConfig | None = None
    """What items are called."""

    links: LinksConfig | None = None
    """Which items belong together."""

    item_noun: Text = "item"
    """What one item is called in a prompt: product, film, job."""

    licence: str = ""
    """What may be done with the data; it follows them into every report."""

    source: str = ""
    """Where the data came from."""


def fields_of(table: ItemsConfig | UsersConfig | EventsConfig | None) -> tuple[Field, ...]:
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
        schemas(fields_of(config.items), fields_of(config.users), fields_of(config.events))
    except ValidationError as error:
        raise _explained(error, path) from error
    except ValueError as error:
        remedy = "give the field another name or kind in the YAML"
        raise DataError(str(error), file=path, remedy=remedy) from error
    logs = (config.events, config.judgements, config.searches, config.tags, config.links)
    if all(log is None for log in logs):
        raise DataError(
            "the key 'events' is missing",
            file=path,
            remedy=f"add it; the keys here are {', '.join(_keys_at(()))}",
        )
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
