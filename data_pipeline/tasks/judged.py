"""Judged queries and tagged items, arranged for questions to be drawn from.

Shape letters: J judgements, Q queries, A taggings, P pairs of an item and a tag, G distinct tags.
"""

from functools import cached_property
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import Draws
from data_pipeline.splits import Phase
from data_pipeline.store_tables import Judgements, Queries, Tags

Rows = NDArray[np.int64]

MOST_GRADES: Final = 10
"""Judges use a scale of few steps; more different grades are counts of something."""
_TRIES: Final = 8


class Judged:
    """The judgements of a store. A query's questions are all of one phase."""

    def __init__(self, judgements: Judgements) -> None:
        self.table = judgements
        self._relevant_rows: dict[Phase, Rows] = {}

    @cached_property
    def grades(self) -> list[float]:
        """The distinct grades, ascending; of counts, no more than one above `MOST_GRADES`."""
        return [float(g) for g in np.unique(self.table.grade_J)[: MOST_GRADES + 1]]

    @cached_property
    def relevant_J(self) -> NDArray[np.bool_]:
        """Whether the item is among the best of its query, and not merely the least bad."""
        table = self.table
        best_Q = np.full(len(table.offsets_Q1) - 1, -np.inf, np.float32)
        np.maximum.at(best_Q, table.query_J, table.grade_J)
        relevant_J: NDArray[np.bool_] = table.grade_J == best_Q[table.query_J]
        if len(self.grades) > 1:
            relevant_J &= table.grade_J > self.grades[0]
        return relevant_J

    def rows(self, phase: Phase) -> Rows:
        """Return the judgements of a phase."""
        return np.flatnonzero(self.table.phase_J == phase)

    def relevant_rows(self, phase: Phase) -> Rows:
        """Return those of them that found the item relevant."""
        if phase not in self._relevant_rows:
            chosen = (self.table.phase_J == phase) & self.relevant_J
            self._relevant_rows[phase] = np.flatnonzero(chosen)
        return self._relevant_rows[phase]

    def label(self, row: int) -> str | None:
        """Return the published name of a judgement's grade."""
        code = int(self.table.label_J[row])
        return self.table.labels[code] if code >= 0 else None

    def grades_of(self, query: int) -> dict[int, float]:
        """Return all items that were judged for a query with their grades, the highest of each."""
        rows = slice(*self.table.offsets_Q1[query : query + 2])
        grades: dict[int, float] = {}
        items, given = self.table.item_J[rows].tolist(), self.table.grade_J[rows].tolist()
        for item, grade in zip(items, given, strict=True):
            grades[item] = max(grade, grades.get(item, grade))
        return grades

    def queries_of(self, item: int) -> frozenset[int]:
        """Return all queries for which an item was judged."""
        first, stop = np.searchsorted(self._items_sorted, [item, item + 1])
        return frozenset(self.table.query_J[self._by_item[first:stop]].tolist())

    @cached_property
    def _by_item(self) -> Rows:
        return np.argsort(self.table.item_J, kind="stable")

    @cached_property
    def _items_sorted(self) -> NDArray[np.int32]:
        return self.table.item_J[self._by_item]


class Tagged:
    """What people called items: each pair of an item and a tag once, when it was first said.

    A pair that several people said belongs to the earliest of their phases, so that no pair that
    was learned is asked about. What was said by nobody in particular is no part of this.

    Some corpora take their queries from tags. A tag that is also a query whose judgements are kept
    from training says the same as these do, so it counts as one that training has not seen.
    """

    def __init__(self, tags: Tags, queries: Queries | None) -> None:
        self.table = tags
        kept_back: set[str] = set()
        if queries is not None:
            rows = np.flatnonzero(queries.phase_Q != Phase.TRAIN).tolist()
            kept_back = {queries.texts[row].casefold() for row in rows}
        held_G = np.array([text.casefold() in kept_back for text in tags.texts], bool)
        said_A = np.flatnonzero(tags.user_A >= 0)
        key_A = tags.item_A[said_A].astype(np.int64) * max(1, tags.n_tags) + tags.tag_A[said_A]
        # By pair, then by phase: the first of each pair is its earliest.
        order = np.lexsort((tags.phase_A[said_A], key_A))
        _, first = np.unique(key_A[order], return_index=True)
        self._pair_rows = said_A[order[first]]
        train = tags.phase_A[self._pair_rows] == Phase.TRAIN
        train &= ~held_G[tags.tag_A[self._pair_rows]]
        self._count_G = np.bincount(tags.tag_A[self._pair_rows[train]], minlength=tags.n_tags)

    @cached_property
    def steps(self) -> list[float]:
        """Rising sums of how many items each tag was first given in training."""
        return list(accumulate(self._count_G.astype(float).tolist()))

    def share(self, tag: int) -> float:
        """Return a tag's share of the pairs of training."""
        return float(self._count_G[tag] / max(1, self._count_G.sum()))

    def rows(self, phase: Phase) -> Rows:
        """Return the row in which each pair of a phase was first said, for tags that are known."""
        rows: Rows = self._pair_rows[self.table.phase_A[self._pair_rows] == phase]
        return rows[self._count_G[self.table.tag_A[rows]] > 0]

    def drawn(self, draws: Draws, taken: frozenset[int], n: int) -> list[int]:
        """Draw n distinct tags by how many items bear them, none of the taken; perhaps fewer."""
        found: list[int] = []
        for _ in range(_TRIES * n):
            tag = draws.weighted(self.steps)
            if tag not in taken and tag not in found:
                found.append(tag)
                if len(found) == n:
                    break
        return found

    def of(self, item: int, *, training: bool) -> frozenset[int]:
        """Return what people ever called an item, or what they had called it in training time."""
        rows = slice(*self.table.offsets_N1[item : item + 2])
        said = self.table.user_A[rows] >= 0
        if training:
            said &= self.table.phase_A[rows] == Phase.TRAIN
        return frozenset(self.table.tag_A[rows][said].tolist())
