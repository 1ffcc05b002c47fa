import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.draws import Draws, permuted


@given(n=st.integers(1, 500), seed=st.integers(0, 2**40))
def test_permutation_is_one(n: int, seed: int) -> None:
    assert sorted(permuted(i, n, seed) for i in range(n)) == list(range(n))


def test_permutation_depends_on_the_seed_and_is_no_identity() -> None:
    orders = {tuple(permuted(i, 50, seed) for i in range(50)) for seed in range(20)}
    assert len(orders) == 20
    assert tuple(range(50)) not in orders


def test_draws_are_a_function_of_seed_and_index_in_any_process() -> None:
    code = (
        "from data_pipeline.draws import Draws\n"
        "d = Draws(3, 9); print([d.below(1000) for _ in range(5)])"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    draws = Draws(3, 9)
    assert elsewhere.stdout.strip() == str([draws.below(1000) for _ in range(5)])


def test_weighted_draws_follow_the_weights() -> None:
    draws = Draws(0, 0)
    counts = Counter(draws.weighted([1.0, 1.0, 4.0]) for _ in range(8000))
    assert counts[1] == 0  # a step of no width is never drawn
    assert counts[0] / 8000 == pytest.approx(0.25, abs=0.02)


def test_shuffle_is_uniform() -> None:
    draws = Draws(1, 1)
    counts: Counter[str] = Counter()
    for _ in range(6000):
        letters = list("abc")
        draws.shuffle(letters)
        counts["".join(letters)] += 1
    assert len(counts) == 6
    assert all(abs(n - 1000) < 130 for n in counts.values())
