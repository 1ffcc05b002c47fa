"""Baselines by name: what a language model has to beat, on the same targets and the same split."""

import difflib

from train.evaluation.baselines.bag_of_words import BagOfWords
from train.evaluation.baselines.base import Baseline, ItemScorer, Questions
from train.evaluation.baselines.item_knn import ItemKnn
from train.evaluation.baselines.majority import Majority
from train.evaluation.baselines.matrix_factorization import MatrixFactorization
from train.evaluation.baselines.popularity import ItemMean, Popularity
from train.evaluation.baselines.sequence import (
    GRU4RecBaseline,
    SASRecBaseline,
    SASRecSampledBaseline,
)
from train.evaluation.baselines.tabular import GradientBoosting, Logistic
from train.evaluation.baselines.texts import CommonText, ItemText
from train.evaluation.baselines.word_overlap import WordOverlap

__all__ = [
    "BASELINES",
    "Baseline",
    "ItemScorer",
    "Questions",
    "find_baseline",
    "register_baseline",
]

BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (
        Majority,
        Popularity,
        ItemMean,
        ItemKnn,
        MatrixFactorization,
        Logistic,
        GradientBoosting,
        SASRecBaseline,
        SASRecSampledBaseline,
        GRU4RecBaseline,
        WordOverlap,
        BagOfWords,
        CommonText,
        ItemText,
    )
}


def find_baseline(name: str) -> type[Baseline]:
    """The baseline of that name.

    Raises:
        ValueError: there is none; the message lists the nearest.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=3) or list(BASELINES)
        raise ValueError(f"no baseline is called {name!r}; nearest: {', '.join(near)}")
    return BASELINES[name]


def register_baseline(baseline: type[Baseline]) -> None:
    """Add a baseline of your own. Raises ValueError where its name is taken."""
    if baseline.name in BASELINES:
        raise ValueError(
            f"there is a baseline called {baseline.name!r} already: give yours another name"
        )
    BASELINES[baseline.name] = baseline
