"""A user's taste in one line, worked out from what the trunk shows."""

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.tasks.base import Kind, Rows, Task
from data_pipeline.tasks.cues import TASTE
from data_pipeline.tasks.needs import genre_field
from data_pipeline.tasks.options import decade_name
from data_pipeline.tasks.taste import standing_out
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question
from data_pipeline.verbalize import clean

FEWEST_VALUES: Final = 5
MOST_LIKED: Final = 3
MOST_DISLIKED: Final = 2
_STANDS_OUT: Final = 1.0
"""Standard deviations by which a category must be over-represented."""
_MOSTLY: Final = 0.5
_MARGIN: Final = 0.1
"""Share of the scale of values between a usual mean and a high or low one."""
_NAME_WORDS: Final = 8
_NAME_CHARACTERS: Final = 80


class TasteSummary(Task):
    """T29: the facts of a user's taste, computed from the history that the trunk shows.

    `likes Comedy | dislikes Horror | mostly 1990s | rates high`: the categories over-represented
    among liked and among disliked items against their shares of all training events, the decade of
    most of the items, and the mean of the values against that of all training events.
    """

    name = "taste_summary"
    code = "T29"
    family = "texts"
    kind: ClassVar[Kind] = "text"
    labels = ()
    metric = "fact_f1"
    baselines = ("common_text",)
    needs = frozenset({"values", "genres"})
    constants = (TASTE,)
    instructions = (
        "Sum up the user's taste in one line.",
        "What kind of {items} does this user like and dislike?",
        "Describe what this user's history says about their taste.",
        "Write a short portrait of the user's taste in {items}.",
    )
    held_out_instructions = ("In a line: which {items} are to this user's liking, which are not?",)

    def subjects(self, view: View) -> Rows:
        return (view.moment.cut,)  # about the moment, not about an event: once is enough

    def ask(self, view: View, subject: int) -> Question | None:
        if np.isfinite(_values(view)).sum() < FEWEST_VALUES:
            return None
        facts = list(_facts(view))
        last = len(facts) - 1
        return Question(
            label=0,
            text=tuple(
                view.constant(f"{' | ' if place else ' '}{fact}{'' if place < last else chr(10)}")
                for place, fact in enumerate(facts)
            ),
        )


def _values(view: View) -> NDArray[np.float32]:
    return view.store.event_value_E[view.shown.start : view.shown.stop]


def _facts(view: View) -> Iterator[str]:
    """Each fact in words; the last one, about the values, is always known."""
    card, items, values = view.store.card, view.items(view.shown), _values(view)
    assert card.like_at_least is not None, "graded values have thresholds"
    assert card.dislike_at_most is not None, "graded values have thresholds"
    for verb, chosen, most in (
        ("likes", values >= card.like_at_least, MOST_LIKED),
        ("dislikes", values <= card.dislike_at_most, MOST_DISLIKED),
    ):
        yield from (f"{verb} {name}" for name in _categories(view, items[chosen], most))
    rated = np.isfinite(values)
    yield from _decade(view, items[rated])
    margin = _MARGIN * (card.values[-1] - card.values[0])
    difference = float(values[rated].mean(dtype=np.float64)) - view.statistics.global_mean
    if abs(difference) < margin:
        yield "rates as most do"
    else:
        yield "rates high" if difference > 0 else "rates low"


def _categories(view: View, items: NDArray[np.int32], most: int) -> Iterator[str]:
    field = genre_field(view.store)
    assert field is not None, "a need of the task"
    excess = standing_out(view, field, items)
    for code in np.argsort(-excess, kind="stable")[:most].tolist():
        if excess[code] >= _STANDS_OUT:
            name = view.store.categories(field).names[code]
            # A fact is what stands between two bars.
            yield clean(name.replace("|", " "), words=_NAME_WORDS, characters=_NAME_CHARACTERS)


def _decade(view: View, items: NDArray[np.int32]) -> Iterator[str]:
    """The decade of at least half of the items whose year is known."""
    for field in view.store.card.year_fields[:1]:
        years = view.shelf.number(field)[items]
        decades, counts = np.unique(years[np.isfinite(years)] // 10, return_counts=True)
        if len(counts) and counts.max() >= _MOSTLY * counts.sum():
            yield f"mostly {decade_name(int(decades[counts.argmax()]))}"
