"""What comes next: the item among candidates, its title, its genre, its decade."""

from typing import ClassVar, Final

from data_pipeline.tasks.base import LETTERS, Kind, Task
from data_pipeline.tasks.options import best_of_rows, category_options, decade_options
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

CANDIDATES: Final = 10
"""A slate of ten: with its records it stays shorter than the history."""
LIKED_CANDIDATES: Final = 4


class NextItemChoice(Task):
    """T11: the next item among sampled ones (known items by popularity^0.75, none met before)."""

    name = "next_item_choice"
    code = "T11"
    family = "sequence"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:CANDIDATES]
    metric = "sampled_accuracy"
    baselines = ("popularity", "item_knn", "sasrec")
    next_only = True
    needs = frozenset({"times"})
    instructions = (
        "Which {item} does the user choose next?",
        "Pick the user's next {item}.",
        "One of these comes next for the user. Which?",
        "What follows in this user's history?",
    )
    held_out_instructions = ("Name the letter of the {item} that this user turns to next.",)

    def ask(self, view: View, subject: int) -> Question | None:
        item = view.item(subject)
        if view.skipped(subject) or not view.statistics.item_count_N[item]:
            return None  # the others are known items: an unknown one would give itself away
        items = [item, *view.negatives(CANDIDATES - 1)]
        if len(items) < CANDIDATES:
            return None
        view.draws.shuffle(items)
        return Question(
            label=items.index(item),
            pieces=view.lettered([view.title_line(i) for i in items]),
            candidates=tuple(items),
            n_choices=len(items),
        )


class NextItemTitle(Task):
    """T12: the next item by its title, ranked over the whole catalog by likelihood."""

    name = "next_item_title"
    code = "T12"
    family = "sequence"
    kind: ClassVar[Kind] = "title"
    labels = ()
    metric = "ndcg@10"
    baselines = ("popularity", "item_knn", "sasrec")
    next_only = True
    needs = frozenset({"times"})
    instructions = (
        "Which {item} comes next? Give its title.",
        "Write the title of the user's next {item}.",
        "Name the next {item} of this user.",
        "What will the user turn to next?",
    )
    held_out_instructions = ("Say which title this user will pick after these.",)

    def ask(self, view: View, subject: int) -> Question | None:
        item = view.item(subject)
        if view.skipped(subject) or not view.statistics.item_count_N[item]:
            return None  # not in the catalog at the end of training: cannot be ranked
        return Question(label=item, candidates=(item,))


class NextGenre(Task):
    """T14: a category of the next item, among five of which only one is right."""

    name = "next_genre"
    code = "T14"
    family = "sequence"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:5]
    metric = "accuracy"
    baselines = ("popularity",)
    next_only = True
    needs = frozenset({"item.genres", "times"})
    instructions = (
        "Which genre is the user's next {item}?",
        "What kind of {item} comes next?",
        "Pick the genre that follows.",
        "The next {item} belongs to which genre?",
    )
    held_out_instructions = ("Of these genres, which one will the user turn to next?",)

    def ask(self, view: View, subject: int) -> Question | None:
        if view.skipped(subject):
            return None
        return category_options(view, "genres", view.categories("genres", view.item(subject)), 5)


class NextDecade(Task):
    """T14: the decade that the next item comes from."""

    name = "next_decade"
    code = "T14"
    family = "sequence"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:4]
    metric = "accuracy"
    baselines = ("popularity",)
    next_only = True
    needs = frozenset({"item.year", "times"})
    instructions = (
        "From which decade is the user's next {item}?",
        "How old is the {item} that comes next?",
        "Pick the decade of the next {item}.",
        "The next {item} was made in which decade?",
    )
    held_out_instructions = ("When was the {item} made that this user turns to next?",)

    def ask(self, view: View, subject: int) -> Question | None:
        if view.skipped(subject):
            return None
        return decade_options(view, "year", view.item(subject), 4)


class FavouriteChoice(Task):
    """T16, conditioned on the label: which of these will get the top value?

    All candidates are later events of this user; exactly one has the corpus's highest value.
    """

    name = "favourite_choice"
    code = "T16"
    family = "sequence"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:LIKED_CANDIDATES]
    metric = "accuracy"
    baselines = ("popularity", "item_mean", "matrix_factorization")
    needs = frozenset({"values"})
    instructions = (
        "Which of these will the user give the top rating?",
        "The user gives one of these full marks. Which?",
        "Pick the {item} with the highest rating from this user.",
        "Which {item} will be this user's favourite?",
    )
    held_out_instructions = ("One of these {items} delights the user most: name its letter.",)

    def ask(self, view: View, subject: int) -> Question | None:
        values = view.store.card.values
        if not values or view.value(subject) != values[-1]:
            return None
        others = [row for row in view.window if view.value(row) < values[-1]]
        others = view.draws.sample(others, LIKED_CANDIDATES - 1)
        if len(others) < LIKED_CANDIDATES - 1:
            return None
        return best_of_rows(view, subject, others)


class FavouriteTitle(Task):
    """T16 by its title: the next of the user's items that gets the corpus's highest value."""

    name = "favourite_title"
    code = "T16"
    family = "sequence"
    kind: ClassVar[Kind] = "title"
    labels = ()
    metric = "hr@10"
    baselines = ("popularity", "item_knn", "sasrec")
    needs = frozenset({"values", "times"})
    instructions = (
        "Which {item} will the user give the top rating next?",
        "Name the next {item} that gets full marks from the user.",
        "What will be this user's next favourite?",
        "The user soon gives a {item} the highest rating. Which?",
    )
    held_out_instructions = ("Give the title of the {item} that delights the user most next.",)

    def ask(self, view: View, subject: int) -> Question | None:
        best = view.store.card.values[-1:]
        first = next((row for row in view.window if (view.value(row),) == best), None)
        item = view.item(subject)
        if subject != first or not view.statistics.item_count_N[item]:
            return None
        return Question(label=item, candidates=(item,))
