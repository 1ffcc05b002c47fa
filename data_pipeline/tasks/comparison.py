"""Several candidates against each other: pairs and lists."""

from typing import ClassVar, Final

from data_pipeline.tasks.base import LETTERS, History, Kind, Task, Tier
from data_pipeline.tasks.options import best_of_rows
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

PAIR_GAP_SHARE: Final = 0.5
"""Two values must differ by half of the corpus's scale to be asked about."""
LIST_LENGTH: Final = 5
COMPANY: Final = 4
"""Items of one user among which an item of nobody's is to be found."""
ODD_DRAWN: Final = 12


class Pairwise(Task):
    """T18: which of two later events got the higher value?"""

    name = "pairwise"
    code = "T18"
    family = "comparison"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:2]
    metric = "accuracy"
    baselines = ("popularity", "item_mean", "matrix_factorization")
    needs = frozenset({"values"})
    instructions = (
        "Which of the two does the user prefer?",
        "The user likes one of these better. Which?",
        "Pick the {item} that the user rates higher.",
        "Which {item} suits the user more?",
    )
    held_out_instructions = ("Given these two {items}, which would this user rather recommend?",)

    def ask(self, view: View, subject: int) -> Question | None:
        values = view.store.card.values
        if not values:
            return None
        gap = PAIR_GAP_SHARE * (values[-1] - values[0])
        value = view.value(subject)
        others = [row for row in view.window if abs(view.value(row) - value) >= gap]
        if not others:
            return None
        other = others[view.draws.below(len(others))]
        better, worse = (subject, other) if value > view.value(other) else (other, subject)
        return best_of_rows(view, better, [worse])


class BestOfList(Task):
    """T19: order five later events by value; the answer's letter probabilities give the order.

    Trained as the first choice of a Plackett-Luce ranking: the letter of the unique best.
    """

    name = "best_of_list"
    code = "T19"
    family = "comparison"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:LIST_LENGTH]
    metric = "ndcg"
    baselines = ("popularity", "item_mean", "matrix_factorization")
    needs = frozenset({"values"})
    instructions = (
        "Rank these for the user. Which is best?",
        "Which {item} of this list comes first for the user?",
        "Order the list by the user's taste and name the top one.",
        "Which one of these will the user enjoy most?",
    )
    held_out_instructions = ("Put the best {item} for this user on top: which letter is it?",)

    def ask(self, view: View, subject: int) -> Question | None:
        values = view.store.card.values
        value = view.value(subject)
        if not values:
            return None
        worse = [row for row in view.window if view.value(row) < value]
        if len(worse) < LIST_LENGTH - 1:
            return None
        return best_of_rows(view, subject, view.draws.sample(worse, LIST_LENGTH - 1))


class OddOneOut(Task):
    """T21: four of five items were met by one user, the fifth by another: which is it?

    The odd one is sampled among items that the user never met up to the end of the window, as
    popular as one of the four, so that popularity alone does not give it away. The trunk shows no
    history: the four must give each other away.
    """

    name = "odd_one_out"
    code = "T21"
    family = "comparison"
    tier: ClassVar[Tier] = "T2a"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[: COMPANY + 1]
    metric = "sampled_accuracy"
    baselines = ("popularity",)
    history: ClassVar[History] = "none"
    instructions = (
        "One user met all of these but one. Which does not belong?",
        "Find the odd one out.",
        "Four of these {items} go together. Which is left over?",
        "Which {item} is not from the same user?",
    )
    held_out_instructions = ("All but one of these {items} share a user: name the other.",)

    def ask(self, view: View, subject: int) -> Question | None:
        counts_N = view.statistics.item_count_N
        rows = [row for row in view.window if row != subject and not view.skipped(row)]
        if view.skipped(subject):
            return None
        own = list(dict.fromkeys(map(view.item, [subject, *view.draws.sample(rows, len(rows))])))
        own = [item for item in own if counts_N[item]][:COMPANY]
        drawn = view.negatives(ODD_DRAWN)
        if len(own) < COMPANY or not drawn:
            return None
        wanted = int(counts_N[own[view.draws.below(COMPANY)]])
        odd = min(drawn, key=lambda item: abs(int(counts_N[item]) - wanted))
        items = [*own, odd]
        view.draws.shuffle(items)
        return Question(
            label=items.index(odd),
            pieces=view.lettered([view.line(item) for item in items]),
            candidates=tuple(items),
            n_choices=len(items),
        )
