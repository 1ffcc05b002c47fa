"""An epoch shows every chosen block once, and a cap bounds how often a user comes."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.epochs import Epochs

EVENTS = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any)


def one_epoch(epochs: Epochs, number: int, seed: int = 3) -> list[tuple[int, int]]:
    first = number * epochs.length
    return [epochs.block(first + place, seed) for place in range(epochs.length)]


@settings(max_examples=100, deadline=None)
@given(events=EVENTS, window=st.integers(1, 9), number=st.integers(0, 10**6))
def test_an_epoch_shows_every_block_once(events: list[int], window: int, number: int) -> None:
    blocks = one_epoch(Epochs(np.array(events), window), number)
    expected = [(u, b) for u, n in enumerate(events) for b in range(-(-n // window))]
    assert sorted(blocks) == expected


@settings(max_examples=100, deadline=None)
@given(
    events=EVENTS,
    window=st.integers(1, 9),
    per_user=st.integers(1, 30),
    number=st.integers(0, 10**6),
)
def test_a_user_comes_as_often_as_the_cap_allows(
    events: list[int], window: int, per_user: int, number: int
) -> None:
    blocks = one_epoch(Epochs(np.array(events), window, per_user=per_user), number)
    assert len(set(blocks)) == len(blocks)
    counts = Counter(user for user, _ in blocks)
    for user, n in enumerate(events):
        assert counts[user] == min(-(-n // window), max(1, per_user // window))
        assert all(block < -(-n // window) for which, block in blocks if which == user)


def test_a_capped_user_shows_all_blocks_equally_often_over_the_epochs() -> None:
    epochs = Epochs(np.array([1000, 20]), 10, per_user=100)
    shown = [one_epoch(epochs, number) for number in range(20)]
    assert shown[0] != shown[1]
    counts = Counter(block for blocks in shown for user, block in blocks if user == 0)
    assert counts == dict.fromkeys(range(100), 2)


def test_only_the_newest_block_of_each_user() -> None:
    blocks = one_epoch(Epochs(np.array([1000, 20, 0]), 10, newest_only=True), 4)
    assert sorted(user for user, _ in blocks) == [0, 1]
