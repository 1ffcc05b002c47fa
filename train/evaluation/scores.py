"""What a scorer, model or baseline, said about the targets of one task.

Shapes: N targets, K answer choices (padded; `n_choices_N` says how many are real).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]
Strings = NDArray[np.object_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """What was said about N targets of a text task, each one line."""

    said_N: Strings
    right_N: Strings
    """what should have been said"""
    ground_N: Strings
    """what the model was shown of user and item"""

    def __len__(self) -> int:
        return len(self.said_N)

    def take(self, rows: NDArray[Any]) -> Texts:
        """The texts at `rows` (indices or a mask)."""
        return Texts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScores:
    """Answers to N targets of one task, beside the truth that they are measured against.

    Label and choice tasks carry `probabilities_NK`; title tasks carry the place of the right item
    among the whole catalog as counts, so that ties stay visible: how many items score strictly
    higher (`better_N`), how many others score the same (`tied_N`), of how many (`ranked_N`); text
    tasks carry `texts`.
    """

    groups_N: Ints
    """what the bootstrap resamples: the user's row; without a user -1 - the query's or item's"""
    subjects_N: Ints
    """the event row or item row that the target is about"""
    labels_N: Ints
    """index of the right choice; the item row for title tasks; 0 for text tasks"""
    n_choices_N: Ints
    """real choices of each target; 0 for title and text tasks"""
    probabilities_NK: Floats
    """probabilities of the choices, renormalised over them, padded with 0"""
    gains_NK: Floats
    """gain of each choice, padded with NaN; all NaN where a task has no gains"""
    values_N: Floats
    """true value (a rating) or NaN"""
    class_values_K: Floats
    """value that each class stands for (1..5 for ratings); its index where labels are words"""
    better_N: Ints
    """title tasks: items that score strictly higher than the right one; -1 elsewhere"""
    tied_N: Ints
    """title tasks: other items with the same score; 0 elsewhere"""
    ranked_N: Ints
    """title tasks: items that stood in the ranking, the right one counted; 0 elsewhere"""
    label_mass_N: Floats
    """probability that the model gave to all choices together before renormalising; NaN = none"""
    requests_N: Ints | None = None
    """first row of the request in which the item was shown among others, -1 where it was not; None
    for tasks that do not ask what was shown"""
    texts: Texts | None = None
    """text tasks: what was said; None elsewhere"""

    def __post_init__(self) -> None:
        for field in fields(self):
            part = getattr(self, field.name)
            if field.name != "class_values_K" and part is not None:
                assert len(part) == len(self), f"{field.name}: {len(part)} rows, not {len(self)}"

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def has_gains(self) -> bool:
        """Whether choices have graded relevance."""
        return bool(self.gains_NK.size) and not np.isnan(self.gains_NK).all()

    @property
    def unreachable(self) -> int:
        """Title targets whose right item could not be ranked: never learned of, or already met."""
        return int((self.better_N >= np.maximum(self.ranked_N, 1)).sum())

    def take(self, rows: NDArray[Any]) -> TargetScores:
        """The targets at `rows` (indices or a mask)."""
        return TargetScores(
            class_values_K=self.class_values_K,
            texts=None if self.texts is None else self.texts.take(rows),
            requests_N=None if self.requests_N is None else self.requests_N[rows],
            **{
                field.name: getattr(self, field.name)[rows]
                for field in fields(self)
                if field.name not in ("class_values_K", "requests_N", "texts")
            },
        )

    def same_targets(self, other: TargetScores) -> bool:
        """Whether two scorers answered the same targets in the same order."""
        return (
            np.array_equal(self.groups_N, other.groups_N)
            and np.array_equal(self.subjects_N, other.subjects_N)
            and np.array_equal(self.labels_N, other.labels_N)
        )


def class_values(labels: Sequence[str]) -> Floats:
    """The number that each label word stands for: itself where all are numbers, else its index."""
    try:
        return np.array([float(label) for label in labels])
    except ValueError:
        return np.arange(len(labels), dtype=np.float64)


def pad(rows: Sequence[Sequence[float] | Floats], fill: float) -> Floats:
    """Ragged rows as one [N, K] array, padded on the right with `fill`."""
    padded_NK = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=np.float64)
    for padded_K, row in zip(padded_NK, rows, strict=True):
        padded_K[: len(row)] = row
    return padded_NK
