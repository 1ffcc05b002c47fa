"""Trees dealt out by cost: what a tree costs, equal parts, and no more memory than strides take."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.balance import Cost, balanced, equal_parts, imbalance, size_of, strided
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import Layout, pack
from data_pipeline.store import TokenStore
from data_pipeline.tree import NOBODY

COST = Cost(per_token=100.0, per_label=500.0, per_pair=0.3)
L1 = {"history_loss_weight": 0.5, "history_title_weight": 0.5}
ALONG = {"moments_per_tree": 3, "ages": "gaps"}


@pytest.mark.parametrize("layout", ["L2", "L0"])
@pytest.mark.parametrize("changes", [{}, L1, ALONG], ids=["plain", "L1", "along"])
def test_a_tree_is_counted_as_its_micro_batch_is(
    tiny_store: TokenStore, layout: Layout, changes: dict[str, object]
) -> None:
    config = MixtureConfig(targets_per_tree=6, history_events=8, **changes)  # type: ignore[arg-type]
    mixture = Mixture([tiny_store], config, seed=0)
    for index in range(20):
        tree = mixture[index]
        batch = pack([tree], len(mixture.tasks), layout=layout)
        pairs = int((batch.positions_T + 1).sum())
        counted = (batch.n_tokens, len(batch.label_positions_M), pairs, 0, tree.moment.user)
        assert size_of(tree, layout) == counted


def test_costs_add_tokens_labels_and_pairs() -> None:
    sizes = np.array([[10, 2, 55, 7, 3], [1, 0, 1, 0, -1]])
    assert COST.costs(sizes).tolist() == pytest.approx([1000 + 1000 + 16.5, 100.3])


def test_users_of_different_corpora_are_different(tiny_store: TokenStore) -> None:
    tree = Mixture([tiny_store], MixtureConfig(), seed=0)[0]
    assert size_of(tree).user != size_of(replace(tree, corpus=1)).user
    assert size_of(replace(tree, moment=NOBODY)).user == -1


def test_strides_are_those_of_the_ranks() -> None:
    assert strided(8, 2, 2) == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def table(tokens: list[int]) -> np.ndarray:
    return np.array([[n, 1 + n % 3, n * (n + 1) // 2, 0, n] for n in tokens], np.int64)


STEPS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        st.just(shape[:2]),
        st.lists(st.integers(1, 2000), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))),
    )
)


@settings(deadline=None)
@given(STEPS)
def test_every_tree_is_dealt_once_and_micro_batches_hold_equally_many(
    step: tuple[tuple[int, int], list[int]],
) -> None:
    (ranks, micro_batches), tokens = step
    split = balanced(table(tokens), COST, ranks, micro_batches)
    assert [len(parts) for parts in split] == [micro_batches] * ranks
    parts = [part for own in split for part in own]
    assert {len(part) for part in parts} == {len(tokens) // len(parts)}
    assert sorted(place for part in parts for place in part) == list(range(len(tokens)))


@settings(deadline=None)
@given(STEPS)
def test_balance_costs_no_memory(step: tuple[tuple[int, int], list[int]]) -> None:
    (ranks, micro_batches), tokens = step
    sizes = table(tokens)

    def most_tokens(split: list[list[list[int]]]) -> int:
        return max(int(sizes[part, 0].sum()) for parts in split for part in parts)

    plain = strided(len(tokens), ranks, micro_batches)
    assert most_tokens(balanced(sizes, COST, ranks, micro_batches)) <= most_tokens(plain)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=10).filter(lambda xs: len(xs) % 2 == 0))
def test_two_parts_are_near_the_best_that_search_finds(costs: list[int]) -> None:
    one, other = equal_parts([float(cost) for cost in costs], 2)
    gap = abs(sum(costs[i] for i in one) - sum(costs[i] for i in other))
    halves = combinations(range(len(costs)), len(costs) // 2)
    best = min(abs(2 * sum(costs[i] for i in half) - sum(costs)) for half in halves)
    # Differencing leaves at most the widest gap between neighbours that are paired.
    paired = sorted(costs)
    assert best <= gap <= max(b - a for a, b in zip(paired[::2], paired[1::2], strict=True))


def test_equal_costs_are_dealt_alike_everywhere() -> None:
    assert equal_parts([1.0] * 6, 3) == equal_parts([1.0] * 6, 3)


def test_imbalance_counts_the_slowest_of_each_turn() -> None:
    costs = np.array([1.0, 3.0, 2.0, 2.0])
    # Turn 0 takes max(1, 3), turn 1 max(2, 2): 5 where 4 would do.
    assert imbalance(costs, [[[0], [2]], [[1], [3]]]) == pytest.approx(5 / 4)
    assert imbalance(costs, [[[0], [1]], [[2], [3]]]) == pytest.approx(5 / 4)
    assert imbalance(costs, [[[0, 1, 2, 3]]]) == 1.0


def test_real_trees_come_out_even(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], MixtureConfig(history_events=8), seed=0)
    before, after = [], []
    for first in range(0, 320, 32):
        sizes = np.array([size_of(mixture[i]) for i in range(first, first + 32)])
        split = balanced(sizes, COST, ranks=4, micro_batches=2)
        before.append(imbalance(COST.costs(sizes), strided(32, 4, 2)))
        after.append(imbalance(COST.costs(sizes), split))
    assert np.mean(after) - 1 < (np.mean(before) - 1) / 4
