"""Fields of an item's record, whatever a corpus calls them: directors, brands, departments."""

from typing import ClassVar, Final

import numpy as np

from data_pipeline.draws import permuted
from data_pipeline.tasks.base import LETTERS, History, Kind, Rows, Task
from data_pipeline.tasks.cues import FIELD, TITLE_CUE
from data_pipeline.tasks.needs_tables import FEWEST_NAMES, fields_to_impute
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

OPTIONS: Final = 5
_HELD_OUT_SHARE: Final = 10
_TRIES: Final = 8


class ImputeField(Task):
    """T36 for any category: the field's name stands in the question, one of its values is right.

    Wrong values come from other items, as often as these have them: a rare value is no hint. There
    are up to four of them, fewer where a field has no more.
    Evaluation asks about items without a training event, whose record no history has shown; where
    there are no events at all, about one item in ten.
    """

    name = "impute_field"
    code = "T36"
    family = "items"
    kind: ClassVar[Kind] = "choice"
    history: ClassVar[History] = "item"
    labels = LETTERS[:OPTIONS]
    metric = "accuracy"
    baselines = ("popularity",)
    needs = frozenset({"categories.trained"})
    constants = (TITLE_CUE, FIELD)
    held_fields: ClassVar[bool] = False
    """Whether it asks about the fields that are kept back from training."""
    instructions = (
        "One field of this {item} is missing. Which value is right?",
        "Fill in the missing field of this {item}.",
        "What belongs in this field of the {item}'s record?",
        "Complete the record: which of these values is this {item}'s?",
    )
    held_out_instructions = ("The catalogue lost one entry of this {item}: restore it.",)

    def subjects(self, view: View) -> Rows:
        counts = view.statistics.item_count_N
        if counts.any():
            return np.flatnonzero(counts > 0 if view.training else counts == 0)
        n = len(counts)
        kept = np.array([permuted(row, n, 36) % _HELD_OUT_SHARE > 0 for row in range(n)], bool)
        return np.flatnonzero(kept if view.training else ~kept)

    def ask(self, view: View, subject: int) -> Question | None:
        names = fields_to_impute(view.store, held=self.held_fields)
        known = [name for name in names if view.categories(name, subject)]
        if not known:
            return None
        field = known[view.draws.below(len(known))]
        right = view.categories(field, subject)
        answer = right[view.draws.below(len(right))]
        options = [answer, *_of_other_items(view, field, right)]
        if len(options) < FEWEST_NAMES:
            return None
        view.draws.shuffle(options)
        all_names = view.store.categories(field).names
        pieces, answers = view.named_options(field, all_names, [all_names[c] for c in options])
        shares = view.shelf.category_shares(field)
        return Question(
            label=options.index(answer),
            pieces=(
                *(view.constant(TITLE_CUE), view.title_line(subject)),
                *(view.constant(FIELD), view.constant(f" {field.replace('_', ' ')}\n")),
                *pieces,
            ),
            answers=answers,
            n_choices=len(options),
            prior=tuple(shares[code] for code in options),
        )


class ImputeHeldField(ImputeField):
    """T36 for fields that no training asks about: the question is known, the field is not."""

    name = "impute_held_field"
    tier = "T2a"
    needs = frozenset({"categories.held"})
    held_fields: ClassVar[bool] = True
    instructions = (
        "A field that was never asked about is missing here. Which value is right?",
        "Which of these values does this {item} have in the field named?",
        "Supply the value of this field for the {item}.",
        "What does the record of this {item} say in this field?",
    )
    held_out_instructions = ("Name the value that this {item} has for the field given.",)


def _of_other_items(view: View, field: str, right: tuple[int, ...]) -> list[int]:
    """Draw distinct values that are not right, as often as items have them; perhaps too few."""
    codes = view.store.categories(field).codes
    found: list[int] = []
    for _ in range(_TRIES * OPTIONS):
        code = int(codes[view.draws.below(len(codes))])
        if code not in right and code not in found:
            found.append(code)
            if len(found) == OPTIONS - 1:
                break
    return found
