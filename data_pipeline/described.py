"""What decides which questions can be asked of a corpus, before there is a tokenizer and after.

A tokenizer is trained on the words of the questions that apply, and a token store is compiled with
it: so this is known of a corpus first, and a store says the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from data_pipeline.build_config import BuildConfig
from data_pipeline.build_tables import category_field, tables_of
from data_pipeline.corpus import Corpus
from data_pipeline.corpus_schema import FieldKind
from data_pipeline.errors import DataError
from data_pipeline.splits import Split
from data_pipeline.store_card import CategoryField
from data_pipeline.store_tables import REVIEW_KIND, Judgements, Links, Searches, Table, Tags


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFacts:
    """What a corpus has, without its tables; `StoreCard` keeps it."""

    values: tuple[float, ...]
    actions: tuple[str, ...]
    like_at_least: float | None
    dislike_at_most: float | None
    has_times: bool
    user_fields: tuple[str, ...]
    category_fields: tuple[str, ...]
    number_fields: tuple[str, ...]
    year_fields: tuple[str, ...]
    event_fields: dict[str, FieldKind]
    """Name -> kind."""

    @property
    def has_sentences(self) -> bool:
        """Whether there are reviews, of which a store keeps the first sentences."""
        return REVIEW_KIND in self.event_fields


class Facts(Protocol):
    """What `CorpusFacts` and `StoreCard` both say."""

    @property
    def values(self) -> tuple[float, ...]: ...
    @property
    def actions(self) -> tuple[str, ...]: ...
    @property
    def like_at_least(self) -> float | None: ...
    @property
    def has_times(self) -> bool: ...
    @property
    def user_fields(self) -> tuple[str, ...]: ...
    @property
    def category_fields(self) -> tuple[str, ...]: ...
    @property
    def number_fields(self) -> tuple[str, ...]: ...
    @property
    def year_fields(self) -> tuple[str, ...]: ...
    @property
    def event_fields(self) -> Mapping[str, FieldKind]: ...
    @property
    def has_sentences(self) -> bool: ...


class Described(Protocol):
    """A token store, or a corpus that is to become one."""

    @property
    def card(self) -> Facts: ...
    @property
    def judgements(self) -> Judgements | None: ...
    @property
    def searches(self) -> Searches | None: ...
    @property
    def tags(self) -> Tags | None: ...
    @property
    def links(self) -> Links | None: ...
    def categories(self, field: str) -> CategoryField: ...


class DescribedCorpus:
    """A corpus and what of it a store will hold whatever the tokenizer."""

    def __init__(self, corpus: Corpus, card: CorpusFacts, tables: Mapping[str, Table]) -> None:
        self.corpus = corpus
        self.card = card
        self.tables = tables
        self._categories: dict[str, CategoryField] = {}

    @property
    def judgements(self) -> Judgements | None:
        table = self.tables.get("judgements")
        return table if isinstance(table, Judgements) else None

    @property
    def searches(self) -> Searches | None:
        table = self.tables.get("searches")
        return table if isinstance(table, Searches) else None

    @property
    def tags(self) -> Tags | None:
        table = self.tables.get("tags")
        return table if isinstance(table, Tags) else None

    @property
    def links(self) -> Links | None:
        table = self.tables.get("links")
        return table if isinstance(table, Links) else None

    def categories(self, field: str) -> CategoryField:
        """Return a categorical item field."""
        if field not in self._categories:
            self._categories[field] = category_field(self.corpus.items[field])
        return self._categories[field]


def describe(corpus: Corpus, split: Split, config: BuildConfig) -> DescribedCorpus:
    """Say what a corpus has.

    Raises:
        DataError: the config's thresholds of likes and dislikes overlap.
    """
    card, fields = corpus.card, corpus.card.item_fields
    like, dislike = _thresholds(card.values, config)
    facts = CorpusFacts(
        values=card.values,
        actions=card.actions,
        like_at_least=like,
        dislike_at_most=dislike,
        has_times=card.has_times,
        user_fields=tuple(f.name for f in card.user_fields),
        category_fields=tuple(f.name for f in fields if f.kind in ("category", "categories")),
        number_fields=tuple(f.name for f in fields if f.kind == "number"),
        year_fields=tuple(f.name for f in fields if f.kind == "year"),
        event_fields={f.name: f.kind for f in card.event_fields},
    )
    return DescribedCorpus(corpus, facts, tables_of(corpus, split))


def _thresholds(
    values: tuple[float, ...], config: BuildConfig
) -> tuple[float | None, float | None]:
    if len(values) < 3:
        return config.like_at_least, config.dislike_at_most
    low, span = values[0], values[-1] - values[0]
    like = config.like_at_least if config.like_at_least is not None else low + 0.75 * span
    dislike = config.dislike_at_most if config.dislike_at_most is not None else low + 0.25 * span
    if dislike >= like:
        raise DataError(
            f"dislike_at_most {dislike:g} is not below like_at_least {like:g}",
            remedy="leave a gap between them",
        )
    return like, dislike
