"""From one kind of items to another: likes that share no category with the candidate."""

from typing import ClassVar, Final

from data_pipeline.tasks.base import YES_NO, History, Task, Tier
from data_pipeline.tasks.needs import DOMAIN_FIELDS
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

SHOTS: Final = 6
FEWEST_SHOTS: Final = 3


class CrossDomainLike(Task):
    """T09: is an item liked, as far as likes in other categories tell?

    The trunk shows no history. The question shows the newest of the user's earlier likes and
    dislikes among items that have no category in common with the candidate.
    """

    name = "cross_domain_like"
    code = "T09"
    family = "domains"
    tier: ClassVar[Tier] = "T2b"
    metric = "auc"
    baselines = ("majority", "popularity", "item_mean")
    history: ClassVar[History] = "none"
    needs = frozenset({"values", "domains"})
    constants = ("Liked:", "Disliked:", CANDIDATE)
    instructions = (
        "From taste in other kinds of {items}: will the user like this {item}?",
        "The candidate is of another kind than these. Does it suit the user?",
        "Does this user's taste carry over to the candidate?",
        "Would the user like this {item}, though it is unlike those before?",
    )
    held_out_instructions = ("Going by quite other {items}, is this one for the user?",)

    def ask(self, view: View, subject: int) -> Question | None:
        item, liked = view.item(subject), view.liked(subject)
        field = next(f for f in DOMAIN_FIELDS if f in view.store.card.category_fields)
        own = set(view.categories(field, item))
        if liked is None or not own:
            return None
        shots: list[tuple[int, bool]] = []
        for row in reversed(view.past):
            before, other = view.liked(row), view.categories(field, view.item(row))
            if before is not None and other and own.isdisjoint(other):
                shots.append((row, before))
            if len(shots) == SHOTS:
                break
        if len(shots) < FEWEST_SHOTS:
            return None
        pieces: list[int] = []
        for row, before in reversed(shots):
            pieces.append(view.constant("Liked:" if before else "Disliked:"))
            pieces.append(view.line(view.item(row)))
        return Question(
            label=YES_NO.index("Yes" if liked else "No"),
            pieces=(*pieces, view.constant(CANDIDATE), view.line(item)),
            candidates=(item,),
            n_choices=2,
            value=view.value(subject),
        )
