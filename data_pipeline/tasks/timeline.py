"""Questions about the order and the pace of what a user does; never trained on."""

from typing import ClassVar, Final

import numpy as np

from data_pipeline.tasks.base import LETTERS, Kind, Task, Tier
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question
from data_pipeline.verbalize import DAY, HOUR

GAP_CANDIDATES: Final = 10
BEHIND_THE_GAP: Final = 3
PACE_LABELS: Final = ("hour", "day", "week", "month", "year")
"""Within a week: more than a day, at most a week. A year stands for more than a month."""
PACE_BOUNDS: Final = np.array([HOUR, DAY, 7 * DAY, 30 * DAY], np.int64)


class SequenceCompletion(Task):
    """T15: one item of a sequence is missing; which of ten was it?

    The trunk ends where the gap is; what followed the gap stands in the question. The other
    options are known items drawn by popularity^0.75 that the user did not meet.
    """

    name = "sequence_completion"
    code = "T15"
    family = "timeline"
    tier: ClassVar[Tier] = "T2a"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:GAP_CANDIDATES]
    metric = "sampled_accuracy"
    baselines = ("popularity", "item_knn")
    next_only = True
    needs = frozenset({"times"})
    constants = ("Before:", "Missing: one", "After:")
    instructions = (
        "One {item} is missing from the sequence. Which?",
        "Fill the gap in the user's history.",
        "Which {item} stood between these and the history?",
        "Pick the {item} that was left out.",
    )
    held_out_instructions = ("The record has a hole: what belongs there?",)

    def ask(self, view: View, subject: int) -> Question | None:
        item = view.item(subject)
        after = self._after(view, subject)
        if view.skipped(subject) or not view.statistics.item_count_N[item] or not after:
            return None
        items = [item, *view.negatives(GAP_CANDIDATES - 1)]
        if len(items) < GAP_CANDIDATES:
            return None
        view.draws.shuffle(items)
        pieces: list[int] = []
        for row in range(view.moment.cut, subject):
            pieces += (view.constant("Before:"), view.title_line(view.item(row)))
        pieces.append(view.constant("Missing: one\n"))
        for other in after:
            pieces += (view.constant("After:"), view.title_line(other))
        return Question(
            label=items.index(item),
            pieces=(*pieces, *view.lettered([view.title_line(i) for i in items])),
            candidates=tuple(items),
            n_choices=len(items),
        )

    def _after(self, view: View, subject: int) -> list[int]:
        """Items that the user chose behind the gap; empty where the missing one is among them."""
        rows = range(subject + 1, view.moment.stop)
        after = [view.item(row) for row in rows if not view.skipped(row)][:BEHIND_THE_GAP]
        return [] if view.item(subject) in after else after


class TimeToNext(Task):
    """T17: how long until the user acts again?

    The event that the moment begins with stands in the question, since the ages in the trunk are
    counted from it: asked about that event itself, they would give the answer away.
    """

    name = "time_to_next"
    code = "T17"
    family = "timeline"
    tier: ClassVar[Tier] = "T2a"
    labels = PACE_LABELS
    metric = "mae_expected"
    baselines = ("majority", "logistic", "gradient_boosting")
    next_only = True
    needs = frozenset({"times"})
    constants = ("Now:",)
    instructions = (
        "The user acts again within an hour, a day, a week, a month or a year?",
        "How soon is the user back: hour, day, week, month or year?",
        "Within what time comes the next action: hour, day, week, month, year?",
        "Name the time until the user's next {item}: hour, day, week, month or year.",
    )
    held_out_instructions = ("Hour, day, week, month or year: when do we see this user again?",)

    def ask(self, view: View, subject: int) -> Question | None:
        following = view.request(subject).stop
        if following >= view.moment.stop:
            return None
        wait = view.milliseconds(subject, following)
        item = view.item(subject)
        return Question(
            label=int(np.searchsorted(PACE_BOUNDS, wait, side="left")),
            pieces=(view.constant("Now:"), view.line(item)),
            candidates=(item,),
            n_choices=len(self.labels),
        )
