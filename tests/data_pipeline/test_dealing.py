"""Shares are exact in every round, and each part counts its own indices without a gap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dealing import ROUND, Dealing


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(any),
    seed=st.integers(0, 2**63 - 1),
    number=st.integers(0, 10**12),
)
def test_each_round_holds_exact_shares_and_no_gaps(
    weights: list[float], seed: int, number: int
) -> None:
    dealing = Dealing(weights, seed)
    first = number * ROUND
    dealt = [dealing.deal(first + place) for place in range(ROUND)]
    for part, weight in enumerate(weights):
        turns = [turn for dealt_part, turn in dealt if dealt_part == part]
        share = weight / sum(weights)
        assert bool(turns) == (share > 0)
        assert abs(len(turns) / ROUND - share) <= len(weights) / ROUND
        assert turns == list(range(number * len(turns), (number + 1) * len(turns)))


def test_one_part_takes_every_index_as_it_comes() -> None:
    dealing = Dealing([3.0], 5)
    assert [dealing.deal(index) for index in range(10)] == [(0, index) for index in range(10)]


def test_the_order_differs_between_rounds_and_seeds_and_not_between_calls() -> None:
    def parts(dealing: Dealing, number: int) -> list[int]:
        return [dealing.deal(number * ROUND + place)[0] for place in range(ROUND)]

    one, other = Dealing([1.0, 1.0], 1), Dealing([1.0, 1.0], 2)
    assert parts(one, 0) == parts(Dealing([1.0, 1.0], 1), 0)
    assert parts(one, 0) != parts(one, 1)
    assert parts(one, 0) != parts(other, 0)


def test_short_runs_have_nearly_the_shares() -> None:
    dealing = Dealing([0.9, 0.1], 0)
    few = np.mean([dealing.deal(index)[0] for index in range(400)])
    assert few == pytest.approx(0.1, abs=0.05)
