"""Choices among attributes: categories and decades, one right answer among lettered options."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

_DECADES_APART: Final = 12
"""Options further from the answer would be no choice."""


def category_options(
    view: View, field: str, right: Sequence[int], n: int, *, subject: tuple[int, ...] = ()
) -> Question | None:
    """Ask for one of the right categories among n; the others are drawn by how common they are.

    `subject` are pieces that stand before the options. Returns None where nothing is right or too
    few categories are wrong.
    """
    if not right:
        return None
    names = view.store.categories(field).names
    shares = view.shelf.category_shares(field)
    answer = right[view.draws.below(len(right))]
    options = [answer, *_drawn(view, field, right, n - 1)]
    if len(options) < n:
        return None
    view.draws.shuffle(options)
    pieces, answers = view.named_options(field, names, [names[code] for code in options])
    return Question(
        label=options.index(answer),
        pieces=(*subject, *pieces),
        answers=answers,
        n_choices=n,
        prior=tuple(shares[c] for c in options),
    )


def decade_options(
    view: View, field: str, item: int, n: int, *, subject: tuple[int, ...] = ()
) -> Question | None:
    """Ask for the decade of an item among n decades of known items."""
    year = view.shelf.number(field)[item]
    if not np.isfinite(year):
        return None
    answer = int(year) // 10
    shares = view.shelf.decade_shares(field)
    wrong = [d for d in shares if d != answer and abs(d - answer) < _DECADES_APART]
    if len(wrong) < n - 1:
        return None
    options = [answer, *view.draws.sample(wrong, n - 1)]
    view.draws.shuffle(options)
    names = [decade_name(decade) for decade in shares]
    pieces, answers = view.named_options(field, names, [decade_name(d) for d in options])
    return Question(
        label=options.index(answer),
        pieces=(*subject, *pieces),
        answers=answers,
        n_choices=n,
        prior=tuple(shares.get(d, 0.0) for d in options),
    )


def decade_name(decade: int) -> str:
    """Return how a decade is called: 199 is "1990s"."""
    return f"{decade}0s"


def best_of_rows(view: View, best: int, others: Sequence[int]) -> Question:
    """Ask which of several events of the user got the highest value: that of the row `best`."""
    rows = [best, *others]
    view.draws.shuffle(rows)
    items = [view.item(row) for row in rows]
    least = view.store.card.values[0]
    return Question(
        label=rows.index(best),
        pieces=view.lettered([view.line(item) for item in items]),
        candidates=tuple(items),
        n_choices=len(items),
        gains=tuple(view.value(row) - least for row in rows),
    )


def _drawn(view: View, field: str, right: Sequence[int], n: int) -> list[int]:
    """Draw n distinct codes that are not right, each time in proportion to the shares left.

    Fewer come back where there are no more. Drawing again until a code is new keeps the proportion.
    """
    steps = view.shelf.category_steps(field)
    shares = view.shelf.category_shares(field)
    left = sum(share > 0 for share in shares) - sum(shares[code] > 0 for code in right)
    found: list[int] = []
    while len(found) < min(n, left):
        code = view.draws.weighted(steps)
        if shares[code] > 0 and code not in right and code not in found:
            found.append(code)
    return found
