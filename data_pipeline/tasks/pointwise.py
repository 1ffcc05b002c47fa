"""One candidate, one label: likes, ratings, and the same for users or items hardly known."""

import math
from typing import ClassVar, Final

from data_pipeline.tasks.base import YES_NO, History, Task
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

CANDIDATE: Final = "Candidate:"
HISTORY_FOR_A_MEAN: Final = 3
RATINGS_FOR_A_MEAN: Final = 5
WATCH_WINDOW_POSITIVE_SHARE: Final = 0.5


class _Pointwise(Task):
    """Asks about the item of one event."""

    family = "pointwise"
    constants = (CANDIDATE,)

    def _about(self, view: View, item: int, label: int, value: float | None) -> Question:
        return Question(
            label=label,
            pieces=(view.constant(CANDIDATE), view.line(item)),
            candidates=(item,),
            n_choices=len(self.labels),
            value=value,
        )


class Like(_Pointwise):
    """T01: liked or disliked; values between the two thresholds are not asked about."""

    name = "like"
    code = "T01"
    metric = "auc"
    baselines = (
        "majority",
        "popularity",
        "item_mean",
        "matrix_factorization",
        "logistic",
        "gradient_boosting",
    )
    needs = frozenset({"values"})
    instructions = (
        "Will this user like this {item}?",
        "Does the candidate suit this user's taste?",
        "Would this user rate the candidate highly?",
        "Is this a {item} that the user likes?",
    )
    held_out_instructions = ("Judging by the past, is this {item} a good choice for the user?",)

    def ask(self, view: View, subject: int) -> Question | None:
        value = view.value(subject)
        card = view.store.card
        if card.like_at_least is None or card.dislike_at_most is None:
            return None
        if not (value >= card.like_at_least or value <= card.dislike_at_most):
            return None
        label = YES_NO.index("Yes" if value >= card.like_at_least else "No")
        return self._about(view, view.item(subject), label, value)


class ColdUserLike(Like):
    """T23: the same for a user of whom only the first few events are known."""

    name = "cold_user_like"
    code = "T23"
    history: ClassVar[History] = "cold"
    instructions = (
        "This user is new. Will they like this {item}?",
        "With so little history, does the candidate suit this user?",
        "Would this new user rate the candidate highly?",
        "Is this a good first {item} for the user?",
    )
    held_out_instructions = ("Does this {item} suit a user who has only just arrived?",)


class DemographicsLike(Like):
    """T24: the same from the profile alone, without any history."""

    name = "demographics_like"
    code = "T24"
    history: ClassVar[History] = "none"
    needs = frozenset({"values", "user.*"})
    instructions = (
        "From the profile alone: will this user like this {item}?",
        "Does the candidate suit people with this profile?",
        "Would someone like this rate the candidate highly?",
        "Knowing only the profile, is this a good {item}?",
    )
    held_out_instructions = ("Is this {item} liked by people with such a profile?",)


class ColdItemLike(Like):
    """T22: the same for an item first seen after training; in training, for a rare one."""

    name = "cold_item_like"
    code = "T22"
    instructions = (
        "This {item} is new. Will the user like it?",
        "Hardly anyone knows this {item}. Does it suit the user?",
        "Would this user rate this new {item} highly?",
        "Is this new {item} one for the user?",
    )
    held_out_instructions = ("Nobody has rated this {item} yet: will this user enjoy it?",)

    def ask(self, view: View, subject: int) -> Question | None:
        count = int(view.statistics.item_count_N[view.item(subject)])
        if count > (view.shelf.rare_item_events if view.training else 0):
            return None
        return super().ask(view, subject)


class Rating(_Pointwise):
    """T02: the value itself, on a scale of five."""

    name = "rating"
    code = "T02"
    labels = ("1", "2", "3", "4", "5")
    metric = "rmse_expected"
    baselines = (
        "majority",
        "item_mean",
        "matrix_factorization",
        "logistic",
        "gradient_boosting",
    )
    needs = frozenset({"values.1-5"})
    instructions = (
        "What rating from 1 to 5 will the user give?",
        "How many stars does this user give the candidate?",
        "Predict this user's rating of the {item}.",
        "On a scale of 1 to 5, how does the user rate this?",
    )
    held_out_instructions = ("Give the number of stars that this user will award the {item}.",)

    def ask(self, view: View, subject: int) -> Question | None:
        value = view.value(subject)
        if math.isnan(value) or not value.is_integer():
            return None
        return self._about(view, view.item(subject), int(value) - 1, value)


class AboveOwnMean(_Pointwise):
    """T02 relative to the user: better than the mean of what they rated so far?"""

    name = "above_own_mean"
    code = "T02"
    metric = "auc"
    baselines = ("majority", "item_mean", "matrix_factorization", "gradient_boosting")
    needs = frozenset({"values"})
    instructions = (
        "Will the user rate this {item} above their own average?",
        "Is the candidate better than usual for this user?",
        "Does this {item} beat the user's usual rating?",
        "Compared with their past, will the user be pleased?",
    )
    held_out_instructions = ("Will this be one of the better {items} for this user?",)

    def ask(self, view: View, subject: int) -> Question | None:
        value = view.value(subject)
        if math.isnan(value) or len(view.history_values) < HISTORY_FOR_A_MEAN:
            return None
        mean = float(view.history_values.mean())
        if abs(value - mean) < 1e-6:
            return None
        return self._about(view, view.item(subject), int(value > mean), value)


class AboveItemMean(_Pointwise):
    """T02 relative to the item: does the user value it more than people did in training time?

    What is left when an item's quality is taken out: the user's own taste, and how they rate. The
    mean is that of `Statistics`, frozen at the end of training and drawn in where few rated.
    """

    name = "above_item_mean"
    code = "T02"
    metric = "auc"
    baselines = ("majority", "item_mean", "matrix_factorization", "gradient_boosting")
    needs = frozenset({"values"})
    instructions = (
        "Will the user rate this {item} above its average?",
        "Does this user like the candidate more than others do?",
        "Is the candidate better for this user than for most?",
        "Will the user be kinder to this {item} than other people?",
    )
    held_out_instructions = ("Does this {item} please the user more than it pleases everyone?",)

    def ask(self, view: View, subject: int) -> Question | None:
        value, item = view.value(subject), view.item(subject)
        if math.isnan(value) or view.statistics.item_count_N[item] < RATINGS_FOR_A_MEAN:
            return None
        mean = float(view.statistics.item_mean_N[item])
        return self._about(view, item, int(value > mean), value)


class WillWatch(_Pointwise):
    """T11, pointwise: does the user meet this item next, or is it a sampled negative?

    Half the candidates are the true next item, half known items drawn by popularity^0.75 that the
    user has not met; the metric is therefore a sampled one.
    """

    name = "will_watch"
    code = "T11"
    metric = "sampled_auc"
    baselines = ("majority", "popularity", "item_knn", "sasrec")
    next_only = True
    needs = frozenset({"times"})
    instructions = (
        "Will the user choose this {item} next?",
        "Is the candidate the next {item} of this user?",
        "Does the user's history lead to this {item}?",
        "Is this {item} coming up for the user?",
    )
    held_out_instructions = ("Will this {item} follow in the user's history?",)

    def ask(self, view: View, subject: int) -> Question | None:
        item = view.item(subject)
        if view.skipped(subject):
            return None
        positive = view.draws.random() < WATCH_WINDOW_POSITIVE_SHARE
        if not positive:
            negatives = view.negatives(1)
            if not negatives:
                return None
            item = negatives[0]
        elif not view.statistics.item_count_N[item]:
            return None  # negatives are known items: an unknown positive would give itself away
        return self._about(view, item, int(positive), None)
