"""What came of an event, as its fields say: recommended, finished, how long, how often."""

import math
from abc import abstractmethod
from typing import ClassVar, Final

import numpy as np

from data_pipeline.tasks.base import LETTERS, YES_NO, Task, Tier
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

SHOTS: Final = 4
"""Earlier items of the user whose outcome the question tells: the trunk says none."""
FEWEST_FOR_A_MEDIAN: Final = 3
HOURS: Final = ("under 2 hours", "2 to 20 hours", "20 to 100 hours", "over 100 hours")
_HOUR_BOUNDS: Final = np.array([2.0, 20.0, 100.0])


class _Outcome(Task):
    """Asks for the class of one event; the newest earlier events with a class are examples."""

    family = "outcomes"
    field: ClassVar[str]

    @abstractmethod
    def classify(self, view: View, event: int) -> int | None:
        """Return the class of an event; None where it is not known."""

    def words(self, label: int) -> str:
        """Return what a class is called in an example."""
        return self.labels[label]

    def options(self, view: View) -> tuple[int, ...]:
        """Return pieces that say what the labels mean."""
        return ()

    def ask(self, view: View, subject: int) -> Question | None:
        label = self.classify(view, subject)
        if label is None:
            return None
        item = view.item(subject)
        return Question(
            label=label,
            pieces=(
                *self._examples(view),
                view.constant(CANDIDATE),
                view.line(item),
                *self.options(view),
            ),
            candidates=(item,),
            n_choices=len(self.labels),
        )

    def _examples(self, view: View) -> list[int]:
        """Items of the trunk's history by what came of them, oldest first."""
        found: list[tuple[int, int]] = []
        for row in range(view.moment.cut - 1, view.moment.start - 1, -1):
            label = self.classify(view, row)
            if label is not None:
                found.append((row, label))
            if len(found) == SHOTS:
                break
        pieces: list[int] = []
        for row, label in reversed(found):
            pieces.append(view.constant(f"Earlier, {self.words(label)}:"))
            pieces.append(view.title_line(view.item(row)))
        return pieces


class _YesNo(_Outcome):
    """A field of events that is yes or no."""

    metric = "auc"
    baselines = ("majority", "popularity", "item_knn", "logistic", "gradient_boosting")
    constants = (CANDIDATE, *(f"Earlier, {label}:" for label in YES_NO))

    def classify(self, view: View, event: int) -> int | None:
        return yes_or_no(view, self.field, event)


class Recommended(_YesNo):
    """T05: does the user recommend it?"""

    name = "recommended"
    code = "T05"
    tier: ClassVar[Tier] = "T2b"
    field = "recommended"
    needs = frozenset({"event.recommended"})
    instructions = (
        "Does the user recommend this {item} to others?",
        "Thumbs up for the candidate: yes or no?",
        "Will the user's review recommend this {item}?",
        "Would this user tell others to try the candidate?",
    )
    held_out_instructions = ("Does this {item} get the user's recommendation?",)


class Finished(_YesNo):
    """T07: does the user finish it: read the book, see the film to its end?"""

    name = "finished"
    code = "T07"
    field = "finished"
    needs = frozenset({"event.finished"})
    instructions = (
        "Does the user finish this {item}?",
        "Will the candidate be finished or left? Yes means finished.",
        "Does the user get to the end of this {item}?",
        "Is the candidate one that the user completes?",
    )
    held_out_instructions = ("Will this user see this {item} through to the end?",)


class HoursBucket(_Outcome):
    """T06: how many hours does the user spend on it?"""

    name = "hours_bucket"
    code = "T06"
    labels = LETTERS[: len(HOURS)]
    metric = "qwk"
    baselines = ("majority", "popularity", "logistic", "gradient_boosting")
    field = "hours"
    needs = frozenset({"event.hours"})
    constants = (CANDIDATE, *(f"Earlier, {words}:" for words in HOURS))
    instructions = (
        "How long does the user spend on this {item}?",
        "How many hours does the candidate get from the user?",
        "Pick the time that the user puts into this {item}.",
        "Estimate the user's hours with the candidate.",
    )
    held_out_instructions = ("For how many hours does this {item} hold the user?",)

    def classify(self, view: View, event: int) -> int | None:
        return hours_class(view, event)

    def words(self, label: int) -> str:
        return HOURS[label]

    def options(self, view: View) -> tuple[int, ...]:
        return view.lettered([view.constant(f" {words}\n") for words in HOURS])


class PlaysAgainstMedian(_Outcome):
    """T08: is it played less, about as much, or more than the user's own median?

    Low is at most half of the median of what the user did before the moment, high at least twice.
    """

    name = "plays_against_median"
    code = "T08"
    tier: ClassVar[Tier] = "T2b"
    labels = ("low", "medium", "high")
    metric = "qwk"
    baselines = ("majority", "popularity", "logistic", "gradient_boosting")
    field = "plays"
    needs = frozenset({"event.plays"})
    constants = (CANDIDATE, *(f"Earlier, {label}:" for label in labels))
    instructions = (
        "Against the user's usual, is the play count low, medium or high?",
        "How often does the user play this {item}: low, medium or high for them?",
        "Low, medium or high: how much is the candidate played by this user?",
        "Compare the plays of this {item} with the user's median: low, medium or high?",
    )
    held_out_instructions = ("Does this user play the {item} little (low), normally, or much?",)

    def classify(self, view: View, event: int) -> int | None:
        plays = view.event_number(self.field, event)
        past = view.past_numbers(self.field)
        past = past[np.isfinite(past)]
        if math.isnan(plays) or len(past) < FEWEST_FOR_A_MEDIAN:
            return None
        median = float(np.median(past))
        return 0 if plays <= median / 2 else 2 if plays >= 2 * median else 1


def yes_or_no(view: View, field: str, event: int) -> int | None:
    """Return 0 or 1 for a field of events that says no or yes; None where it says neither."""
    value = view.event_category(field, event)
    return {"no": 0, "yes": 1}.get(value.lower()) if value else None


def hours_class(view: View, event: int) -> int | None:
    """Return which of `HOURS` the hours of an event are; None where they are not known."""
    hours = view.event_number("hours", event)
    return None if math.isnan(hours) else int(np.searchsorted(_HOUR_BOUNDS, hours, side="right"))
