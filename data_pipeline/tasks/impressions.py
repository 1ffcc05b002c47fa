"""What a user does with the items that they are shown: click, skip, or something else.

No request is cut in two by a moment, so the trunk never holds another item of the impression that
is asked about.
"""

from typing import ClassVar, Final

from data_pipeline.tasks.base import LETTERS, YES_NO, Kind, Task
from data_pipeline.tasks.needs import CLICKED, SKIPPED
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

SHOWN: Final = 5
MOST_ACTIONS: Final = 12


class Click(Task):
    """T03: does the user click an item that they were shown?"""

    name = "click"
    code = "T03"
    family = "impressions"
    metric = "auc"
    baselines = ("majority", "popularity", "item_knn", "logistic", "gradient_boosting")
    asks_what_was_shown = True
    needs = frozenset({"impressions"})
    constants = (CANDIDATE,)
    instructions = (
        "This {item} is shown to the user. Do they click it?",
        "Will the user open the candidate?",
        "Shown in a list, does this {item} get the user's click?",
        "Click or skip: does the user click this {item}?",
    )
    held_out_instructions = ("The user sees this {item}: do they choose to open it?",)

    def ask(self, view: View, subject: int) -> Question | None:
        action = view.action(subject)
        if action not in (CLICKED, SKIPPED):
            return None
        # Beside an impression log there may be one of clicks alone: there nothing was ever skipped.
        shown = view.request(subject)
        if not any(map(view.skipped, shown)) and not view.shelf.shown_alone:
            return None
        item = view.item(subject)
        return Question(
            label=YES_NO.index("Yes" if action == CLICKED else "No"),
            pieces=(view.constant(CANDIDATE), view.line(item)),
            candidates=(item,),
            n_choices=2,
            request=shown.start if len(shown) > 1 else None,
        )


class ClickOfList(Task):
    """T19 on impressions: which of five that were shown together is clicked?

    One was clicked, the others were skipped in the same request: nothing is sampled.
    """

    name = "click_of_list"
    code = "T19"
    family = "impressions"
    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:SHOWN]
    metric = "mrr"
    baselines = ("popularity", "item_knn", "gradient_boosting")
    needs = frozenset({"impressions"})
    instructions = (
        "All of these are shown to the user. Which one is clicked?",
        "Which {item} of this list does the user open?",
        "Pick the one that gets the user's click.",
        "The user opens one of these. Which?",
    )
    held_out_instructions = ("Of the {items} on the screen, which does the user choose?",)

    def ask(self, view: View, subject: int) -> Question | None:
        if view.action(subject) != CLICKED:
            return None
        item = view.item(subject)
        skipped = [view.item(row) for row in view.request(subject) if view.skipped(row)]
        others = list(dict.fromkeys(other for other in skipped if other != item))
        items = [item, *view.draws.sample(others, SHOWN - 1)]
        if len(items) < 2:
            return None
        view.draws.shuffle(items)
        return Question(
            label=items.index(item),
            pieces=view.lettered([view.line(i) for i in items]),
            candidates=tuple(items),
            n_choices=len(items),
        )


class Action(Task):
    """T04: what does the user do with an item: which of the corpus's own actions?

    The options stand in the same order every time, so a letter always means the same action.
    """

    name = "action"
    code = "T04"
    family = "impressions"
    labels = LETTERS[:MOST_ACTIONS]
    metric = "macro_f1"
    baselines = ("majority", "popularity", "logistic", "gradient_boosting")
    needs = frozenset({"actions"})
    constants = (CANDIDATE,)
    instructions = (
        "What does the user do with this {item}?",
        "Which action does the user take?",
        "Pick what happens between the user and the candidate.",
        "How does the user react to this {item}?",
    )
    held_out_instructions = ("This {item} comes before the user: what follows?",)

    def ask(self, view: View, subject: int) -> Question | None:
        actions = view.store.card.actions
        if len(actions) > MOST_ACTIONS:
            return None
        item = view.item(subject)
        pieces, answers = view.named_options("events.action", actions, actions)
        return Question(
            label=actions.index(view.action(subject)),
            pieces=(view.constant(CANDIDATE), view.line(item), *pieces),
            answers=answers,
            candidates=(item,),
            n_choices=len(actions),
        )
