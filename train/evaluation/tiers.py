"""Seen tasks against unseen ones: of each tier, on how many tasks the model beats what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from train.evaluation.results import Results, Row

TIERS: Final = {
    "T1": "trained on",
    "T2a": "unseen question",
    "T2b": "unseen corpus",
    "T2c": "question and corpus unseen",
}
NOT_TRAINED: Final = "of a trained tier, not in this mixture"


class Won(NamedTuple):
    """Tasks on which the model is better beyond the paired interval, of those compared."""

    won: int
    compared: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TierCount:
    """The tasks of one tier on one corpus."""

    corpus: str
    tier: str
    words: str
    """What the tier is."""
    tasks: int
    untrained: Won
    trivial: Won
    best: Won


def tier_counts(results: Results) -> list[TierCount]:
    """Count the tasks of each corpus by tier, the trained ones first.

    A task of tier T1 that the run's mixture left out is no seen task, and is counted apart.
    """
    found: list[TierCount] = []
    for corpus in dict.fromkeys(row.corpus for row in results.rows):
        own = [row for row in results.rows if row.corpus == corpus]
        for tier, words in (*TIERS.items(), ("T1", NOT_TRAINED)):
            rows = [row for row in own if _group(row, results.mixture) == (tier, words)]
            if rows:
                found.append(
                    TierCount(
                        corpus=corpus,
                        tier=tier,
                        words=words,
                        tasks=len(rows),
                        untrained=_won([row.beats_untrained for row in rows]),
                        trivial=_won([row.beats_trivial for row in rows]),
                        best=_won([row.beats_best for row in rows]),
                    )
                )
    return found


def _group(row: Row, mixture: Mapping[str, Any]) -> tuple[str, str]:
    """Tier of a task, and what that is; a mixture that names no tasks has all of T1."""
    weights = mixture.get("tasks") or {row.task: 1.0}
    trained = row.tier != "T1" or weights.get(row.task, weights.get(row.family, 0.0)) > 0
    return row.tier, TIERS[row.tier] if trained else NOT_TRAINED


def _won(beaten: Sequence[bool | None]) -> Won:
    compared = [verdict for verdict in beaten if verdict is not None]
    return Won(sum(compared), len(compared))
