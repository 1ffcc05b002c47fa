"""The sections of a mapping for queries, judgements, searches, tags and links."""

import dataclasses

from pydantic.dataclasses import dataclass

from data_pipeline.sources.mapping_files import (
    STRICT,
    FileConfig,
    RowsConfig,
    Text,
    TimestampUnit,
)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class QueryColumnsConfig:
    """The file's column for each column of queries."""

    query_id: Text = "query_id"
    """The id that judgements and searches refer to. Read as text."""

    text: Text = "text"
    """What was typed."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class QueriesConfig(FileConfig):
    """The file of queries."""

    columns: QueryColumnsConfig = dataclasses.field(default_factory=QueryColumnsConfig)
    """Which column is what."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class JudgementColumnsConfig:
    """The file's column for each column of judgements."""

    query_id: Text = "query_id"
    """For which query. Without a file of queries, what was typed itself."""

    item_id: Text = "item_id"
    """How relevant which item is."""

    grade: Text = "grade"
    """How relevant: a number, higher is better."""

    label: Text | None = None
    """The grade's name: exact, substitute, irrelevant."""

    split: Text | None = None
    """train, validation or test, where one was published. Otherwise the query's id decides."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class JudgementsConfig(RowsConfig):
    """The file of judgements: how relevant items are to queries."""

    columns: JudgementColumnsConfig = dataclasses.field(default_factory=JudgementColumnsConfig)
    """Which column is what."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SearchColumnsConfig:
    """The file's column for each column of searches."""

    user_id: Text = "user_id"
    """Who searched."""

    query_id: Text = "query_id"
    """For what. Without a file of queries, what was typed itself."""

    timestamp: Text | None = "timestamp"
    """When; null where it is not known of any search."""

    item_id: Text | None = None
    """A result that was shown."""

    action: Text | None = None
    """What was done with it: clicked, skipped, bought. Without it every search has the `action`
    beside."""

    request_id: Text | None = None
    """What was shown together."""

    position: Text | None = None
    """Where on the page the result stood: a number."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SearchesConfig(RowsConfig):
    """The file of searches: one row per result that was shown, or per search."""

    columns: SearchColumnsConfig = dataclasses.field(default_factory=SearchColumnsConfig)
    """Which column is what."""

    action: Text = "clicked"
    """The action of every row when no column says it."""

    timestamp_unit: TimestampUnit = "auto"
    """As in events."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TagColumnsConfig:
    """The file's column for each column of tags."""

    item_id: Text = "item_id"
    """What was tagged."""

    tag: Text = "tag"
    """With which word or words."""

    user_id: Text | None = None
    """By whom; may be empty."""

    timestamp: Text | None = None
    """When; may be empty."""

    weight: Text | None = None
    """How strongly: a share, or a count."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TagsConfig(RowsConfig):
    """The file of tags: one row per tag of an item."""

    columns: TagColumnsConfig = dataclasses.field(default_factory=TagColumnsConfig)
    """Which column is what."""

    timestamp_unit: TimestampUnit = "auto"
    """As in events."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class LinkColumnsConfig:
    """The file's column for each column of links."""

    item_id: Text = "item_id"
    """From which item."""

    other_id: Text = "other_id"
    """To which."""

    relation: Text | None = None
    """What they have to do with one another: similar, also_bought. Without it every link has the
    `relation` beside."""

    weight: Text | None = None
    """How much."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class LinksConfig(RowsConfig):
    """The file of links between items."""

    columns: LinkColumnsConfig = dataclasses.field(default_factory=LinkColumnsConfig)
    """Which column is what."""

    relation: Text = "similar"
    """The relation of every link when no column says it."""


OptionalConfig = QueriesConfig | JudgementsConfig | SearchesConfig | TagsConfig | LinksConfig
