"""A token store's tables beside its events: queries, judgements, searches, tags and links.

All are memory-mapped arrays with one entry per row; what is text is read when first asked for.

Shape letters: Q queries, J judgements, S searches, A taggings (rows of the tags table), G distinct
tags, L links, E events, N items, U users; Q1, U1, N1: one more, for offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

QUERY_KIND: Final = "query"
TAG_KIND: Final = "tag"
REVIEW_KIND: Final = "review"
SENTENCE_KIND: Final = "sentence"
"""The first sentence of a review."""


class Names(Sequence[str]):
    """Texts by number, read from disk when the first is asked for."""

    def __init__(self, names: Sequence[str] | Path) -> None:
        self._source = names

    @cached_property
    def _names(self) -> Sequence[str]:
        if not isinstance(self._source, Path):
            return self._source
        names: list[str] = pq.read_table(self._source)["name"].to_pylist()
        return names

    def __len__(self) -> int:
        if isinstance(self._source, Path):
            return int(pq.read_metadata(self._source).num_rows)
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return one name, or several."""
        return self._names[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Names({len(self)})"

    def save(self, path: Path) -> None:
        """Write all names as a file."""
        pq.write_table(pa.table({"name": pa.array(self._names, pa.string())}), path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Queries:
    """What people typed."""

    ids: Names
    """The corpus's own id of each query."""
    texts: Names
    phase_Q: NDArray[np.int8]
    """Phase of each query's judgements; its searches have phases of their own."""

    @property
    def n_queries(self) -> int:
        """Queries of the corpus."""
        return len(self.phase_Q)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgements:
    """How relevant items are to queries, by query, then in the corpus's order."""

    query_J: NDArray[np.int32]
    item_J: NDArray[np.int32]
    grade_J: NDArray[np.float32]
    """Higher is more relevant."""
    label_J: NDArray[np.int16]
    """Row of `labels`, or -1."""
    phase_J: NDArray[np.int8]
    """That of the judgement's query: a query is never judged in two phases."""
    offsets_Q1: NDArray[np.int64]
    labels: Names
    """Published names of grades, sorted."""

    def of(self, query: int) -> range:
        """Return the rows of one query's judgements."""
        return range(int(self.offsets_Q1[query]), int(self.offsets_Q1[query + 1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Searches:
    """Who searched what and did what with a result, by user, then time."""

    user_S: NDArray[np.int32]
    query_S: NDArray[np.int32]
    time_S: NDArray[np.int64]
    """Milliseconds since 1970; -1 in a corpus without times."""
    item_S: NDArray[np.int32]
    """Row of the item, or -1 where the search is known without a result."""
    action_S: NDArray[np.int16]
    """Row of `actions`."""
    position_S: NDArray[np.float32]
    """Where the item stood; NaN where unknown."""
    opens_request_S: NDArray[np.bool_]
    """False where an earlier row belongs to the same request or moment: never cut them apart."""
    phase_S: NDArray[np.int8]
    offsets_U1: NDArray[np.int64]
    actions: Names

    def of(self, user: int) -> range:
        """Return the rows of one user's searches."""
        return range(int(self.offsets_U1[user]), int(self.offsets_U1[user + 1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """What items were called, by item, then in the corpus's order."""

    item_A: NDArray[np.int32]
    tag_A: NDArray[np.int32]
    user_A: NDArray[np.int32]
    """Row of who said it, or -1."""
    time_A: NDArray[np.int64]
    """Milliseconds since 1970, or -1."""
    weight_A: NDArray[np.float32]
    """How strongly; NaN where it was just said."""
    phase_A: NDArray[np.int8]
    """TRAIN where neither time nor user are known."""
    offsets_N1: NDArray[np.int64]
    texts: Names
    """The distinct tags, in the order in which they first appear in the corpus."""

    @property
    def n_tags(self) -> int:
        """Distinct tags."""
        return len(self.texts)

    def of(self, item: int) -> range:
        """Return the rows of one item's tags."""
        return range(int(self.offsets_N1[item]), int(self.offsets_N1[item + 1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """What the publisher says that items have to do with one another, by item."""

    item_L: NDArray[np.int32]
    other_L: NDArray[np.int32]
    relation_L: NDArray[np.int16]
    """Row of `relations`."""
    weight_L: NDArray[np.float32]
    """NaN where unknown."""
    offsets_N1: NDArray[np.int64]
    relations: Names

    def of(self, item: int) -> range:
        """Return the rows of one item's links."""
        return range(int(self.offsets_N1[item]), int(self.offsets_N1[item + 1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class EventCategory:
    """A categorical event field."""

    names: Names
    """Sorted."""
    codes_E: NDArray[np.int32]
    """Row of `names`, or -1 where unknown."""


Table = Queries | Judgements | Searches | Tags | Links
TableT = TypeVar("TableT", Queries, Judgements, Searches, Tags, Links, EventCategory)


def save_table(table: Table | EventCategory, folder: Path) -> None:
    """Write a table as a folder with one file per part."""
    folder.mkdir(parents=True)
    for entry in fields(table):
        part = getattr(table, entry.name)
        if isinstance(part, Names):
            part.save(folder / f"{entry.name}.parquet")
        else:
            np.save(folder / f"{entry.name}.npy", part, allow_pickle=False)


def open_table(kind: type[TableT], folder: Path) -> TableT:
    """Map what `save_table` wrote.

    Raises:
        OSError, ValueError: a file is missing or damaged.
    """
    parts: dict[str, Any] = {}
    for entry in fields(kind):
        names = folder / f"{entry.name}.parquet"
        if entry.type is Names:
            pq.read_metadata(names)
            parts[entry.name] = Names(names)
        else:
            parts[entry.name] = map_array(folder / f"{entry.name}.npy")
    return kind(**parts)


def map_array(path: Path) -> NDArray[Any]:
    """Map a .npy file: only what is looked at is read."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
