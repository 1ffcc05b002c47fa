"""What a token store says of itself, and its items' categories.

Shapes: N items, N1 = N + 1 offsets.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from data_pipeline.corpus_schema import FieldKind
from data_pipeline.store_tables import SENTENCE_KIND

SCHEMA_VERSION: Final = 2
CARD_FILE: Final = "store.json"
_Number = TypeVar("_Number", bound=np.number[Any])


@checked_dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class StoreCard:
    """What a token store was compiled from, and how."""

    schema_version: int
    corpus_name: str
    corpus_fingerprint: str
    tokenizer_fingerprint: str
    fingerprint: str
    """Of corpus, tokenizer, split and verbalisation: equal fingerprint, equal prompts."""
    item_noun: str
    source: str
    licence: str
    values: tuple[float, ...]
    actions: tuple[str, ...]
    like_at_least: float | None
    dislike_at_most: float | None
    styles: tuple[str, ...]
    has_times: bool
    """Whether it is known when events happened; if not, trunks say no ages."""
    user_fields: tuple[str, ...]
    category_fields: tuple[str, ...]
    number_fields: tuple[str, ...]
    year_fields: tuple[str, ...]
    event_fields: dict[str, FieldKind]
    """Name -> kind."""
    first_piece: dict[str, int]
    """Kind of piece -> id of the first of them; items, users, ages, actions follow in order."""
    action_label_offset: int | None
    """Where in an action piece the one token stands that tells the actions apart."""
    vocab_size: int
    split: dict[str, Any]
    counts: dict[str, int]
    """Rows of every table that there is, pieces and tokens."""

    @property
    def has_sentences(self) -> bool:
        """Whether the first sentences of reviews are pieces: older stores have none."""
        return SENTENCE_KIND in self.first_piece


@dataclass(frozen=True, slots=True)
class CategoryField:
    """A categorical item field: item i has the codes `codes[offsets[i]:offsets[i + 1]]`."""

    names: tuple[str, ...]
    offsets_N1: NDArray[np.int64]
    codes: NDArray[np.int32]

    def of(self, item: int) -> tuple[int, ...]:
        """Return the codes of one item."""
        return tuple(self.codes[self.offsets_N1[item] : self.offsets_N1[item + 1]].tolist())

    def count(self, items: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return how many of these items have each code, an item as often as it is given."""
        starts = self.offsets_N1[items]
        codes = self.codes[ranges(starts, self.offsets_N1[items + 1] - starts)]
        return np.bincount(codes, minlength=len(self.names))


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate `arange(start, start + length)` of every pair."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def with_room(array: NDArray[_Number], n: int) -> NDArray[_Number]:
    """Return the array where it has n entries, else a copy with room for twice as many.

    What is behind the old entries means nothing. Appending one by one then costs linear time.
    """
    if len(array) >= n:
        return array
    larger = np.zeros(2 * n, array.dtype)
    larger[: len(array)] = array
    return larger
