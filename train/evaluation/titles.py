"""The place of one title among all others by likelihood, exact, though few are scored in full.

A text is at most as likely as its beginning. So titles are scored a few tokens deep first, and
those whose beginning is already less likely than the whole right title are known to stand below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from train.evaluation.scores import Floats

Text = tuple[int, ...]
Score = Callable[[Sequence[Text]], Floats]
"""log p(text | prompt) of each text"""

_SLACK = 1e-2  # nats; far above the rounding between two ways to compute the same likelihood
_DEPTHS = (1, 2, 3)
_WORTHWHILE = 0.2  # a round that dropped fewer than this share says that the next one would as well


def place_of_title(score: Score, titles: Sequence[Text], right: int) -> tuple[int, int]:
    """How many titles are likelier than the right one, and how many others are exactly as likely.

    Args:
        score: gives log likelihoods behind the prompt.
        titles: N texts, each ending alike, so that none is the beginning of another.
        right: index of the right one.

    Raises:
        RuntimeError: the right title scores above the bound of its own beginning.
    """
    left = np.arange(len(titles))
    right_score = float(score([titles[right]])[0])
    for depth in _DEPTHS:
        before = len(left)
        left = left[
            _bounds(score, [titles[i] for i in left.tolist()], depth) >= right_score - _SLACK
        ]
        if depth > 1 and before - len(left) < _WORTHWHILE * before:
            break
    if right not in left:
        raise RuntimeError("the right title is likelier than its own beginning: no causal model")
    score_R = score([titles[i] for i in left.tolist()])
    of_right = score_R[left == right][0]
    # Items of the same title have the same tokens, hence the same score to the last bit.
    return int((score_R > of_right).sum()), int((score_R == of_right).sum()) - 1


def _bounds(score: Score, titles: Sequence[Text], depth: int) -> Floats:
    beginnings = sorted({title[:depth] for title in titles})
    known = dict(zip(beginnings, score(beginnings), strict=True))
    return np.array([known[title[:depth]] for title in titles], np.float64)
