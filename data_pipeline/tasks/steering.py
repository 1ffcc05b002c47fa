"""Lists ordered by a note in plain words, which a program checks."""

from typing import ClassVar, Final, NamedTuple

import numpy as np

from data_pipeline.tasks.base import LETTERS, Kind, Task, Tier
from data_pipeline.tasks.options import decade_name
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

SLATE: Final = 10
MOST_NAMED: Final = 5
NOTES_TRIED: Final = 8
_TASTE_BELOW_ONE: Final = 0.99


class Note(NamedTuple):
    """What shall stand first: a genre, items before a decade, or both."""

    genre: int | None
    before: int | None
    """A decade: 199 is the 1990s."""

    def holds(self, view: View, item: int) -> bool:
        """Whether an item is what the note asks for."""
        if self.genre is not None and self.genre not in view.categories("genres", item):
            return False
        year = view.shelf.number("year")[item]
        return self.before is None or bool(np.isfinite(year) and year < 10 * self.before)

    def text(self, view: View) -> str:
        """Return the note as a line."""
        names = view.store.categories("genres").names
        genre = "" if self.genre is None else f" {names[self.genre]}"
        before = "" if self.before is None else f" from before the {decade_name(self.before)}"
        return f"Note: only{genre} {view.store.card.item_noun}s{before} first, then by taste.\n"


class SlateWithNote(Task):
    """T20: order ten later events by a note first, by the user's taste second.

    The letters' probabilities give the order. A candidate's gain is its value, scaled to [0, 1),
    and one more where the note asks for it; the metrics `note_kept` and `note_rest_ndcg` read the
    two parts again.
    """

    name = "slate_with_note"
    code = "T20"
    family = "steering"
    tier: ClassVar[Tier] = "T2a"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:SLATE]
    metric = "note_kept"
    baselines = ("popularity", "item_mean", "matrix_factorization")
    needs = frozenset({"values", "item.genres", "item.year"})
    instructions = (
        "Order the list as the note asks. Which comes first?",
        "Follow the note, then the user's taste: which is on top?",
        "Rank these by the note. Which {item} leads?",
        "Which {item} should stand first, given the note?",
    )
    held_out_instructions = ("Keep to the note: which letter opens the list?",)

    def ask(self, view: View, subject: int) -> Question | None:
        others = [r for r in view.window if r != subject and np.isfinite(view.value(r))]
        if len(others) < SLATE - 1 or not np.isfinite(view.value(subject)):
            return None
        rows = [subject, *view.draws.sample(others, SLATE - 1)]
        view.draws.shuffle(rows)
        items = [view.item(row) for row in rows]
        for _ in range(NOTES_TRIED):
            note = self._note(view, items)
            if note and 0 < sum(note.holds(view, item) for item in items) <= MOST_NAMED:
                break
        else:
            return None
        values = view.store.card.values
        scale = _TASTE_BELOW_ONE / (values[-1] - values[0])
        gains = [
            note.holds(view, item) + scale * (view.value(row) - values[0])
            for item, row in zip(items, rows, strict=True)
        ]
        best = [place for place, gain in enumerate(gains) if gain == max(gains)]
        return Question(
            label=best[view.draws.below(len(best))],
            pieces=(
                view.constant(note.text(view)),
                *view.lettered([view.line(item) for item in items]),
            ),
            candidates=tuple(items),
            n_choices=len(items),
            gains=tuple(gains),
        )

    def _note(self, view: View, items: list[int]) -> Note | None:
        """Draw a note that fits one of the items."""
        item = items[view.draws.below(len(items))]
        genres, year = view.categories("genres", item), view.shelf.number("year")[item]
        kind = view.draws.below(3)
        by_genre, by_year = kind != 1 and bool(genres), kind != 0 and bool(np.isfinite(year))
        if not by_genre and not by_year:
            return None
        return Note(
            genre=genres[view.draws.below(len(genres))] if by_genre else None,
            before=int(year) // 10 + 1 if by_year else None,
        )
