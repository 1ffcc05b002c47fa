"""A fraction of the users: nested, a function of seed and row, and nobody else is asked about."""

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.fraction import training_events
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks

CONFIG = MixtureConfig(targets_per_tree=4, history_events=6)
FRACTIONS = (0.1, 0.25, 0.5, 0.9, 1.0)


def chosen(store: TokenStore, fraction: float, seed: int = 0) -> set[int]:
    return set(np.flatnonzero(training_events(store, fraction, seed)).tolist())


def test_a_smaller_fraction_is_a_part_of_a_larger_one(tiny_store: TokenStore) -> None:
    parts = [chosen(tiny_store, fraction) for fraction in FRACTIONS]
    everybody = tiny_store.train_stops_U > tiny_store.user_offsets_U1[:-1]
    assert parts[-1] == set(np.flatnonzero(everybody).tolist())
    for smaller, larger in pairwise(parts):
        assert smaller < larger
    for fraction, part in zip(FRACTIONS, parts, strict=True):
        assert len(part) / len(parts[-1]) == pytest.approx(fraction, abs=0.12)


def test_it_follows_from_seed_and_row_alone(tiny_store: TokenStore) -> None:
    assert chosen(tiny_store, 0.5) == chosen(tiny_store, 0.5)
    assert chosen(tiny_store, 0.5, seed=1) != chosen(tiny_store, 0.5, seed=2)
    events_U = training_events(tiny_store, 0.5, 0)
    whole_U = training_events(tiny_store, 1.0, 0)
    assert (events_U[events_U > 0] == whole_U[events_U > 0]).all()


@pytest.mark.parametrize("history", ["sliding", "latest"])
def test_trees_are_about_the_chosen_users_and_all_of_them(
    tiny_store: TokenStore, history: Literal["sliding", "latest"]
) -> None:
    config = replace(CONFIG, user_fraction=0.25, history=history)
    mixture, users = Mixture([tiny_store], config, seed=3), chosen(tiny_store, 0.25, seed=3)
    assert mixture.training_users == {"tiny": len(users)}
    trees = [mixture[index] for index in range(2 * mixture.epoch_lengths[0])]
    about = {tree.moment.user for tree in trees} - {-1}
    assert about == users


def test_a_tree_is_a_function_of_seed_and_index(tiny_store: TokenStore) -> None:
    config = replace(CONFIG, user_fraction=0.4)
    forwards, again = (Mixture([tiny_store], config, seed=5) for _ in range(2))
    for index in (30, 20, 10, 10**9):
        again[index]
    for index in (10, 20, 30, 10**9):
        one, other = forwards[index], again[index]
        assert one.moment == other.moment
        assert np.array_equal(one.trunk, other.trunk)
        assert [b.question for b in one.branches] == [b.question for b in other.branches]


def test_everybody_is_what_a_mixture_without_a_fraction_learns_from(
    tiny_store: TokenStore,
) -> None:
    """The default changes no tree, and a fraction changes the record of the mixture."""
    plain, whole = (
        Mixture([tiny_store], config, seed=2)
        for config in (CONFIG, replace(CONFIG, user_fraction=1.0))
    )
    assert plain.fingerprints == whole.fingerprints
    part = Mixture([tiny_store], replace(CONFIG, user_fraction=0.5), seed=2)
    assert part.fingerprints["mixture"] != whole.fingerprints["mixture"]
    assert part.epoch_lengths[0] < whole.epoch_lengths[0]


def test_a_store_counts_by_the_users_that_are_left(
    tiny_store: TokenStore, rich_store: TokenStore
) -> None:
    sizes = {}
    for fraction in (0.5, 1.0):
        config = replace(CONFIG, tasks={"like": 1.0}, temperature=1.0, user_fraction=fraction)
        mixture = Mixture([tiny_store, tiny_store], config, seed=0)
        share = np.mean([mixture.part_of(index)[0] for index in range(4096)])
        assert share == pytest.approx(0.5, abs=1e-3)
        sizes[fraction] = mixture.epoch_lengths[0]
    assert sizes[0.5] < 0.7 * sizes[1.0]
    assert set(Mixture([tiny_store, rich_store], CONFIG, seed=0).training_users) == {
        "tiny",
        "tiny-rich",
    }


def test_an_evaluation_asks_the_same(tiny_store: TokenStore) -> None:
    tasks = [all_tasks()[name] for name in ("like", "next_item_choice")]
    few, all_of_them = (
        EvaluationSet(
            tiny_store,
            tasks,
            phase=Phase.TEST,
            config=replace(CONFIG, user_fraction=fraction),
            seed=0,
            max_targets=20,
        )
        for fraction in (0.2, 1.0)
    )
    assert len(few) == len(all_of_them)
    for one, other in zip(few, all_of_them, strict=True):
        assert one.moment == other.moment
        assert np.array_equal(one.trunk, other.trunk)


def test_nobody_left_is_refused_and_so_are_fractions_out_of_range(tiny_store: TokenStore) -> None:
    with pytest.raises(DataError, match=r"user_fraction leaves none of the \d+ users of corpus"):
        Mixture([tiny_store], replace(CONFIG, user_fraction=1e-9), seed=0)
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="user_fraction"):
            MixtureConfig(user_fraction=fraction)
