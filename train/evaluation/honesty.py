"""What a result must say before it may be written: an evaluation cannot lie silently.

Each clause is one function: results -> what is wrong, in words. A failed batch is no matter of the
result: it raises where it happens, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.evaluation.results import Results

SAMPLED = "sampled_"
DECODING_KEYS = frozenset(
    {"labels", "titles", "texts", "candidates", "history", "ties", "collisions", "sampling"}
)

Clause = Callable[["Results"], Iterator[str]]


class DishonestResultError(ValueError):
    """A result that hides something. It is a mistake of the evaluation, and no file is written."""


def check_results(results: Results) -> None:
    """Refuse a result that breaks a clause.

    Raises:
        DishonestResultError: the message names every broken clause.
    """
    broken = [f"{clause.__name__}: {words}" for clause in CLAUSES for words in clause(results)]
    if broken:
        raise DishonestResultError(
            "the evaluation is not written, because it would hide something: " + "; ".join(broken)
        )


def everyone_expected_was_scored(results: Results) -> Iterator[str]:
    """Users and targets: expected == scored."""
    for corpus in results.corpora:
        for what in ("users", "targets"):
            expected, scored = (
                getattr(corpus, f"{what}_{word}") for word in ("expected", "scored")
            )
            if expected != scored:
                yield f"{corpus.name}: {expected} {what} were expected, {scored} were scored"


def rankings_are_of_the_full_catalog(results: Results) -> Iterator[str]:
    """Items ranked and items excluded as history make up the catalog."""
    catalog = {corpus.name: corpus.catalog_items for corpus in results.corpora}
    for row in results.rows:
        if row.kind != "title":
            continue
        if row.ranked_items is None or row.excluded_items is None:
            yield f"{row.task} does not say how many items it ranked"
        elif abs(row.ranked_items + row.excluded_items - catalog[row.corpus]) > 1e-6:
            yield (
                f"{row.task} ranked {row.ranked_items:g} items and excluded "
                f"{row.excluded_items:g} of {catalog[row.corpus]}"
            )


def decoding_is_stated(results: Results) -> Iterator[str]:
    """How answers were made, to the collision policy."""
    missing = sorted(k for k in DECODING_KEYS if results.decoding.get(k) in (None, ""))
    if missing:
        yield f"decoding settings {missing} are missing"


def seeds_are_stated(results: Results) -> Iterator[str]:
    """Of the questions, of the training mixture, and of the resampling."""
    seeds = {
        "seed": results.seed,
        "mixture_seed": results.mixture_seed,
        "bootstrap.seed": results.bootstrap.get("seed"),
    }
    missing = [name for name, seed in seeds.items() if not isinstance(seed, int)]
    if missing:
        yield f"{missing} are missing"


def the_split_is_stated(results: Results) -> Iterator[str]:
    """A hash of each corpus's split, and one of all."""
    if not results.split_hash:
        yield "split_hash is empty"
    yield from (f"{c.name} has no split hash" for c in results.corpora if not c.split_hash)


def invalid_answers_are_counted(results: Results) -> Iterator[str]:
    """The share of answers that name no item, where items are named."""
    for row in results.rows:
        named = row.kind == "title"
        if named and (row.invalid_rate is None or not 0.0 <= row.invalid_rate <= 1.0):
            yield f"{row.task} has invalid_rate {row.invalid_rate}"


def every_value_has_an_interval(results: Results) -> Iterator[str]:
    """Rows, slices and differences."""
    for row in results.rows:
        differences = [getattr(row, key) for key in row.__slots__ if key.startswith("difference_")]
        for part in (row, *row.slices, *(d for d in differences if d is not None)):
            if part.value is not None and (part.low is None or part.high is None):
                yield f"{row.task} has a {type(part).__name__.lower()} without an interval"


def sampled_metrics_say_so(results: Results) -> Iterator[str]:
    """Numbers that depend on a sampler of negatives carry "sampled" in their name."""
    for row in results.rows:
        lying = [name for name in (row.metric, *row.secondary) if not name.startswith(SAMPLED)]
        if row.sampled and lying:
            yield f"the candidates of {row.task} are sampled, but not the names {lying}"


CLAUSES: tuple[Clause, ...] = (
    everyone_expected_was_scored,
    rankings_are_of_the_full_catalog,
    decoding_is_stated,
    seeds_are_stated,
    the_split_is_stated,
    invalid_answers_are_counted,
    every_value_has_an_interval,
    sampled_metrics_say_so,
)
