"""What users wrote."""

from typing import ClassVar, Final

from data_pipeline.tasks.base import LETTERS, Kind, Task
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

OPTIONS: Final = 4
_TRIES: Final = 30


class ReviewChoice(Task):
    """T28 as a choice: which of these reviews did the user write about the item?

    The label is known: what the user did, such as a rating, stands behind the item, and the wrong
    reviews are of events of the same phase, action and value, about other items, so that neither
    the verdict nor a familiar text gives anything away. `explanation` asks for the reason itself.
    """

    name = "review_choice"
    code = "T28"
    family = "texts"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:OPTIONS]
    metric = "sampled_accuracy"
    baselines = ("majority", "word_overlap")
    needs = frozenset({"event.review"})
    constants = (CANDIDATE,)
    instructions = (
        "This is what the user thought of the {item}. Which reason did they give?",
        "Which of these reviews is this user's of the candidate?",
        "The user did this with the {item}. Which text explains it?",
        "Pick the review that the user wrote about this {item}.",
    )
    held_out_instructions = ("In whose words, of these, does the user explain this verdict?",)

    def ask(self, view: View, subject: int) -> Question | None:
        if not view.has_review(subject):
            return None
        rows = [subject, *self._others(view, subject)]
        if len(rows) < OPTIONS:
            return None
        view.draws.shuffle(rows)
        options = view.lettered([view.review_line(row) for row in rows])
        done = (view.inline(view.item(subject)), view.action_line(subject))
        return Question(
            label=rows.index(subject),
            pieces=(view.constant(CANDIDATE), *done, *options),
            n_choices=len(rows),
        )

    def _others(self, view: View, subject: int) -> list[int]:
        actions = view.store.event_action_E
        found: list[int] = []
        rows = view.shelf.reviewed(view.phase, int(actions[subject]))
        for _ in range(min(_TRIES, len(rows))):
            row = int(rows[view.draws.below(len(rows))])
            if view.item(row) != view.item(subject) and row not in found:
                found.append(row)
                if len(found) == OPTIONS - 1:
                    break
        return found
