"""Metrics of answers that are texts.

Shapes: N targets.
"""

from __future__ import annotations

import re

import numpy as np

from train.evaluation.metrics.base import PerTarget
from train.evaluation.scores import Floats, TargetScores, Texts

BETWEEN_FACTS = "|"


def rouge_l(scores: TargetScores) -> Floats:
    """F-measure of the longest common subsequence of words; 0 where nothing was said.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1, with
    precision and recall weighted alike. Words are lower-cased, nothing is stemmed.
    """
    texts = _texts_of(scores)
    pairs = zip(texts.said_N, texts.right_N, strict=True)
    return np.array([_rouge_l(words(said), words(right)) for said, right in pairs])


def grounded_share(scores: TargetScores) -> Floats:
    """Share of the content words said that stand in what was shown: the record or the trunk.

    Content words are all but the stop words of English and digits alone; NaN where there are none.
    """
    # Here, because it takes a second, and results are read without it.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    texts = _texts_of(scores)
    shares = []
    for said, ground in zip(texts.said_N, texts.ground_N, strict=True):
        content = [w for w in words(said) if w not in ENGLISH_STOP_WORDS and not w.isdigit()]
        known = set(words(ground))
        shares.append(np.mean([word in known for word in content]) if content else np.nan)
    return np.array(shares, np.float64)


def fact_f1(scores: TargetScores) -> Floats:
    """2 |said and right| / (|said| + |right|) of the facts, which bars divide."""
    texts = _texts_of(scores)
    values = []
    for said, right in zip(texts.said_N, texts.right_N, strict=True):
        ours, theirs = _facts(said), _facts(right)
        values.append(2 * len(ours & theirs) / max(1, len(ours) + len(theirs)))
    return np.array(values, np.float64)


TEXT_METRICS: dict[str, PerTarget] = {
    "rouge_l": rouge_l,
    "grounded_share": grounded_share,
    "fact_f1": fact_f1,
}
"""All of them: more is better."""


def words(text: str) -> list[str]:
    """Words of a text, lower-cased."""
    return re.findall(r"\w+", text.lower())


def _rouge_l(said: list[str], right: list[str]) -> float:
    common = _longest_common(said, right)
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _longest_common(one: list[str], two: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time."""
    lengths = [0] * (len(two) + 1)
    for word in one:
        before = lengths[:]
        for place, other in enumerate(two):
            longer = before[place] + 1 if word == other else max(before[place + 1], lengths[place])
            lengths[place + 1] = longer
    return lengths[-1]


def _facts(text: str) -> set[str]:
    facts = (" ".join(fact.lower().split()) for fact in text.split(BETWEEN_FACTS))
    return {fact for fact in facts if fact}


def _texts_of(scores: TargetScores) -> Texts:
    if scores.texts is None:
        raise ValueError("a metric of texts needs answers that are texts")
    return scores.texts
