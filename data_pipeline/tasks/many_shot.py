"""Questions that only labelled rows of other users explain: many-shot in-context learning."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import in_random_order
from data_pipeline.splits import Phase
from data_pipeline.tasks.base import History, Task, Tier
from data_pipeline.tasks.cues import ANSWER_CUE
from data_pipeline.tasks.outcomes import HOURS, hours_class, yes_or_no
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

HELPFUL_VOTES: Final = 3
_USER: Final = "User:"
_REVIEW: Final = "Review:"
_HOURS: Final = "Hours:"


class _ManyShot(Task):
    """T40: rows of other users with their answers, then a row of this user without.

    A row is one event with a review: the user's profile where the corpus knows any, the item, the
    review, the answer. Rows that are shown are of training time; rows that are asked are of the
    phase of the evaluation. The targets of a tree share what is shown, so that hundreds of rows are
    read once, and nobody who is asked about is shown.

    Rows are shown as they are drawn. Balanced over the labels they would teach another prior than
    that of the questions. Drawn one after another, fewer rows are the nearest ones of more.

    Source: the many-shot problem of 360Brew (arXiv 2501.16450, section 2.1), across users; and
    Agarwal et al., "Many-Shot In-Context Learning" (arXiv 2404.11018).
    """

    code = "T40"
    family = "many_shot"
    tier: ClassVar[Tier] = "T2c"
    history: ClassVar[History] = "demonstrations"
    metric = "auc"
    baselines = ("majority", "popularity", "logistic", "gradient_boosting", "bag_of_words")
    constants: ClassVar[tuple[str, ...]] = (_USER, CANDIDATE, _REVIEW)

    @abstractmethod
    def answer(self, view: View, event: int) -> int | None:
        """Return the right label of an event; None where it is not known."""

    def subjects(self, view: View) -> NDArray[np.int64]:
        return view.shelf.reviewed(view.phase)

    def ask(self, view: View, subject: int) -> Question | None:
        label = self.answer(view, subject)
        if label is None:
            return None
        return Question(
            label=label,
            pieces=self.row(view, subject),
            candidates=(view.item(subject),),
            n_choices=len(self.labels),
            user=view.store.user_of_event(subject),
        )

    def demonstrations(
        self, view: View, subjects: Sequence[int], n: int
    ) -> Sequence[tuple[int, ...]]:
        asked = {view.store.user_of_event(subject) for subject in subjects}
        found: list[tuple[int, ...]] = []
        for event in in_random_order(view.shelf.reviewed(Phase.TRAIN), view.draws):
            if len(found) == n:
                break
            label = self.answer(view, event)
            if label is not None and view.store.user_of_event(event) not in asked:
                answer = view.constant(f"{ANSWER_CUE} {self.labels[label]}\n")
                found.append((*self.row(view, event), answer))
        return found

    def row(self, view: View, event: int) -> tuple[int, ...]:
        """Return the pieces of what is known of an event, without its answer."""
        pieces: tuple[int, ...] = ()
        if view.store.card.user_fields:
            profile = view.profile_line(view.store.user_of_event(event))
            pieces = (view.constant(_USER), profile)
        pieces += (view.constant(CANDIDATE), view.line(view.item(event)))
        return (*pieces, view.constant(_REVIEW), view.review_line(event))


class ManyShotHelpful(_ManyShot):
    """Did at least three people find the review helpful?

    Votes gather with time, so that rows of training time have more of them than those asked.
    """

    name = "many_shot_helpful"
    needs = frozenset({"event.review", "event.helpful"})
    instructions = (
        "Do three people or more find this review helpful?",
        "Does this review gather at least three helpful votes?",
        "Is this review of the {item} one that several readers call helpful?",
        "Is this a review with three helpful votes or more?",
    )
    held_out_instructions = ("Would three readers or more say that this review helped them?",)

    def answer(self, view: View, event: int) -> int | None:
        votes = view.event_number("helpful", event)
        return None if np.isnan(votes) else int(votes >= HELPFUL_VOTES)


class ManyShotReviewRating(_ManyShot):
    """Which rating stands above the review?"""

    name = "many_shot_review_rating"
    labels = ("1", "2", "3", "4", "5")
    metric = "qwk"
    baselines = ("majority", "item_mean", "logistic", "gradient_boosting", "bag_of_words")
    needs = frozenset({"event.review", "values.1-5"})
    instructions = (
        "Which rating from 1 to 5 goes with this review?",
        "How many stars did the writer of this review give?",
        "Read the review: what is its rating, 1 to 5?",
        "Which rating belongs to this review of the {item}?",
    )
    held_out_instructions = ("Someone who writes this about the {item} gives how many stars?",)

    def answer(self, view: View, event: int) -> int | None:
        value = view.value(event)
        return int(value) - 1 if value.is_integer() else None

    def ask(self, view: View, subject: int) -> Question | None:
        question = super().ask(view, subject)
        return question and replace(question, value=view.value(subject))


class ManyShotSpoiler(_ManyShot):
    """Does the review give the story away?"""

    name = "many_shot_spoiler"
    needs = frozenset({"event.review", "event.spoiler"})
    instructions = (
        "Is this review a spoiler?",
        "Does the review give away how the {item} goes on?",
        "Must this review carry a spoiler warning?",
        "Does this review spoil the {item} for its readers?",
    )
    held_out_instructions = ("Would the review ruin the surprise for somebody new to the {item}?",)

    def answer(self, view: View, event: int) -> int | None:
        return yes_or_no(view, "spoiler", event)


class ManyShotEarlyAccess(_ManyShot):
    """Was the review written before the item was finished? Hours tell, where they are known."""

    name = "many_shot_early_access"
    needs = frozenset({"event.review", "event.early_access"})
    constants = (*_ManyShot.constants, _HOURS)
    instructions = (
        "Was this {item} still in early access when the review was written?",
        "Is the review one of an unfinished {item}?",
        "Did the user write this during early access?",
        "Is this a review from early access?",
    )
    held_out_instructions = ("When this was written, was the {item} not yet fully released?",)

    def answer(self, view: View, event: int) -> int | None:
        return yes_or_no(view, "early_access", event)

    def row(self, view: View, event: int) -> tuple[int, ...]:
        pieces = super().row(view, event)
        known = "hours" in view.store.card.event_fields
        hours = hours_class(view, event) if known else None
        if hours is None:
            return pieces
        return (*pieces, view.constant(_HOURS), view.constant(f" {HOURS[hours]}\n"))
