"""Where a user's taste goes over the coming weeks."""

from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.tasks.base import LETTERS, Kind, Task
from data_pipeline.tasks.options import category_options, decade_options
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question
from data_pipeline.verbalize import DAY

HORIZON_DAYS: Final = 30
FEWEST_EVENTS: Final = 5


class _Future(Task):
    """Asks what stands out among the items of the next 30 days."""

    code = "T26"
    family = "taste"
    kind: ClassVar[Kind] = "choice"
    metric = "accuracy"
    baselines = ("popularity",)
    next_only = True

    def _coming(self, view: View) -> NDArray[np.int32] | None:
        """Return the items that the user meets in that time; None where they are too few."""
        rows = view.until(HORIZON_DAYS * DAY)
        return view.items(rows) if len(rows) >= FEWEST_EVENTS else None


class FutureGenre(_Future):
    """T26: the category that the user meets most over the next 30 days, compared with everyone.

    The most frequent category is nearly always the same one; what tells users apart is the one
    that is most *over-represented* against its share of all training events.
    """

    name = "future_genre"
    labels = LETTERS[:5]
    needs = frozenset({"item.genres", "times"})
    instructions = (
        "Which genre will stand out in the user's next month?",
        "What will this user see more of than others do?",
        "Pick the genre that this user turns to in the coming weeks.",
        "Which genre marks this user's near future?",
    )
    held_out_instructions = ("Over the next 30 days, which genre is this user drawn to most?",)

    def ask(self, view: View, subject: int) -> Question | None:
        items = self._coming(view)
        if items is None:
            return None
        excess = standing_out(view, "genres", items)
        if not excess.any():
            return None
        return category_options(view, "genres", [int(excess.argmax())], len(self.labels))


class FutureDecade(_Future):
    """T26: the decade that the user meets most over the next 30 days, compared with everyone."""

    name = "future_decade"
    labels = LETTERS[:4]
    needs = frozenset({"item.year", "times"})
    instructions = (
        "Which decade will stand out in the user's next month?",
        "The {items} of which decade does this user turn to?",
        "Pick the decade that this user sees more of than others do.",
        "Which decade marks this user's near future?",
    )
    held_out_instructions = ("Over the next 30 days, which decade draws this user most?",)

    def ask(self, view: View, subject: int) -> Question | None:
        items = self._coming(view)
        if items is None:
            return None
        decades = view.shelf.number("year")[items] // 10  # NaN where unknown, equal to no decade
        shares = view.shelf.decade_shares("year")
        counts = np.array([(decades == decade).sum() for decade in shares])
        excess = excess_over(counts, np.array(list(shares.values())))
        if not excess.size or excess.max() <= 0:
            return None
        most = list(shares)[int(excess.argmax())]
        item = int(items[decades == most][0])
        return decade_options(view, "year", item, len(self.labels))


def standing_out(view: View, field: str, items: NDArray[np.int32]) -> NDArray[np.float64]:
    """By how much each category occurs more often among items than among all training events.

    As `excess_over` measures it; shape [number of categories].
    """
    counts = view.store.categories(field).count(items)
    return excess_over(counts, np.array(view.shelf.category_shares(field)))


def excess_over(counts: NDArray[np.integer], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much counts exceed what shares of their sum would be.

    In standard deviations of a Poisson count, which keeps rare ones from winning by one event;
    zeros where nothing was counted.
    """
    expected = shares * counts.sum()
    excess: NDArray[np.float64] = (counts - expected) / np.sqrt(expected + 1.0)
    return excess
