"""Why: the reason that a user gave for a verdict, in their own words."""

from typing import ClassVar

from data_pipeline.store_tables import SENTENCE_KIND
from data_pipeline.tasks.base import Kind, Task
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question


class Explanation(Task):
    """T28: the first sentence of what the user wrote about an item, its verdict being known.

    The verdict, such as a rating, stands behind the item, so that what is asked for is its reason.
    The right answer is the user's own; histories never hold reviews.
    """

    name = "explanation"
    code = "T28"
    family = "texts"
    kind: ClassVar[Kind] = "text"
    labels = ()
    metric = "rouge_l"
    baselines = ("common_text", "item_text")
    needs = frozenset({"sentences"})
    constants = (CANDIDATE,)
    instructions = (
        "This is what the user thought of the {item}. Write why, in the user's words.",
        "Explain this verdict on the {item} as the user would.",
        "What does the user say about this {item}? Write the first sentence.",
        "Give the user's reason for what they did with the candidate.",
    )
    held_out_instructions = ("Put into one sentence what this user has to say about the {item}.",)

    def ask(self, view: View, subject: int) -> Question | None:
        if not view.has_review(subject):
            return None
        item = view.item(subject)
        return Question(
            label=0,
            pieces=(view.constant(CANDIDATE), view.inline(item), view.action_line(subject)),
            candidates=(item,),
            text=(view.store.piece_of(SENTENCE_KIND, subject),),
        )
