"""What the cache holds is the longest known beginning, within its bytes, of the present model."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeling.trunk_cache import BLOCK_TOKENS, TrunkCache
from modeling.trunk_states import TrunkStates

TOKEN_BYTES = 2 * 2 * 4
"""Of one token: keys and values of 2 layers, one head of width 1, fp32."""


def states_of(tokens: np.ndarray, held: TrunkStates | None = None) -> TrunkStates:
    """States from which the tokens can be read back."""
    states = held or TrunkStates()
    new = torch.from_numpy(tokens[states.length :]).float()[None, :, None]
    for layer in range(2):
        states.append(layer, new, -new)
    return states


def held_tokens(states: TrunkStates, length: int) -> list[int]:
    if not length:
        return []
    key, value = states.read(1, length)
    assert torch.equal(key, -value)
    return key[0, :, 0].long().tolist()


def trunk(*parts: tuple[int, int]) -> np.ndarray:
    """Runs of (token, length)."""
    return np.concatenate([np.full(length, token) for token, length in parts]).astype(np.int64)


def cache_of(tokens: int) -> TrunkCache:
    return TrunkCache(nn.Linear(2, 2), tokens * TOKEN_BYTES)


def keep(cache: TrunkCache, tokens: np.ndarray) -> None:
    cache.keep(tokens, states_of(tokens))


def knows(cache: TrunkCache, tokens: np.ndarray) -> bool:
    """Looked up without being used: no count, no order."""
    return cache._longest_beginning(tokens)[1] == len(tokens)


def test_a_trunk_is_found_whole_and_shared() -> None:
    cache, tokens = cache_of(1000), trunk((1, 40))
    states = states_of(tokens)
    cache.keep(tokens, states)
    assert cache.find(tokens) is states
    assert cache.find(tokens[:20]) is states, "a beginning of what is held needs no reading either"
    assert not states.recording
    assert (cache.statistics.hits, cache.statistics.misses) == (2, 0)


def test_a_grown_trunk_goes_on_and_takes_the_place_of_the_old_one() -> None:
    cache, old, new = cache_of(1000), trunk((1, 40)), trunk((1, 40), (2, 7))
    keep(cache, old)
    states = cache.find(new)
    assert states.length == 40
    assert states.recording
    cache.keep(new, states_of(new, states))
    assert cache.statistics.entries == 1
    assert cache.statistics.bytes == 47 * TOKEN_BYTES
    assert held_tokens(cache.find(old), 40) == old.tolist()
    assert cache.statistics.evictions == 0


def test_a_trunk_changed_in_its_middle_leaves_the_old_one_as_it_was() -> None:
    cache, old, new = cache_of(1000), trunk((1, 40)), trunk((1, 25), (2, 30))
    keep(cache, old)
    states = cache.find(new)
    assert states.length == 25, "to the token, not to the block"
    cache.keep(new, states_of(new, states))
    assert held_tokens(cache.find(old), 40) == old.tolist()
    assert held_tokens(cache.find(new), 55) == new.tolist()
    assert cache.statistics.entries == 2


def test_fewer_tokens_than_a_block_are_no_beginning() -> None:
    cache = cache_of(1000)
    keep(cache, trunk((1, 40)))
    assert cache.find(trunk((1, BLOCK_TOKENS - 1), (2, 40))).length == 0
    keep(cache, trunk((3, BLOCK_TOKENS - 1)))
    assert cache.statistics.entries == 1


def test_the_least_recently_used_goes_first() -> None:
    cache = cache_of(100)
    a, b, c, d = (trunk((token, 30)) for token in (1, 2, 3, 4))
    for tokens in (a, b, c):
        keep(cache, tokens)
    cache.find(a)
    keep(cache, d)
    assert [knows(cache, tokens) for tokens in (a, b, c, d)] == [True, False, True, True]
    keep(cache, trunk((5, 60)))
    assert [knows(cache, tokens) for tokens in (a, b, c, d)] == [False, False, False, True]
    assert cache.statistics.evictions == 3


def test_a_trunk_larger_than_the_cache_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = cache_of(30)
    with caplog.at_level(logging.WARNING):
        keep(cache, trunk((1, 31)))
        keep(cache, trunk((2, 50)))
    assert cache.statistics.too_large == 2
    assert cache.statistics.entries == 0
    [record] = caplog.records
    assert f"a trunk of 31 tokens takes {31 * TOKEN_BYTES} bytes" in record.getMessage()
    assert "raise cache_bytes" in record.getMessage()


def test_a_cache_of_no_bytes_keeps_nothing_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = cache_of(0)
    keep(cache, trunk((1, 40)))
    assert cache.find(trunk((1, 40))).length == 0
    assert not caplog.records
    with pytest.raises(ValueError, match="a cache of -1 bytes"):
        TrunkCache(nn.Linear(2, 2), -1)


def test_another_model_empties_it() -> None:
    model = nn.Linear(2, 2)
    cache = TrunkCache(model, 1000 * TOKEN_BYTES)
    keep(cache, trunk((1, 40)))
    cache.follow_model()
    assert cache.statistics.entries == 1
    with torch.no_grad():
        model.weight.add_(1.0)
    cache.follow_model()
    assert cache.statistics.entries == cache.statistics.bytes == 0
    assert cache.find(trunk((1, 40))).length == 0


TRUNKS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3 * BLOCK_TOKENS)), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(trunks=st.lists(TRUNKS, max_size=15), room=st.integers(1, 300))
def test_any_trunks_are_found_as_far_as_they_are_held(
    trunks: list[list[tuple[int, int]]], room: int
) -> None:
    cache = cache_of(room)
    for parts in trunks:
        tokens = trunk(*parts)
        entries = [entry.tokens_P for entry in cache._entries.values()]
        common = max((_common(tokens, entry) for entry in entries), default=0)
        states = cache.find(tokens)
        held = min(states.length, len(tokens))
        assert held == (common if common >= BLOCK_TOKENS else 0)
        assert held_tokens(states, held) == tokens[:held].tolist()
        if held < len(tokens):
            cache.keep(tokens, states_of(tokens, states))
        really = sum(entry.states.nbytes for entry in cache._entries.values())
        assert cache.statistics.bytes == really <= room * TOKEN_BYTES
        assert cache.statistics.entries == len(cache._entries)
        listed = {block for entry in cache._entries.values() for block in entry.blocks}
        assert listed == cache._begins.keys()


def _common(a: np.ndarray, b: np.ndarray) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length
