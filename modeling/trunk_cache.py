"""Trunks that were encoded, kept for the next question about the same user.

Entries are found by content: a hash of the tokens up to every block's end leads to those that begin
alike, and comparing tokens says how far. So a trunk that has grown is found whole, and one that has
changed in its middle up to the change. (Serving engines key prefix caches so: Kwon et al. 2023,
arXiv 2309.06180; Zheng et al. 2023, arXiv 2312.07104.)

Kept states are never changed: whoever wants to go on from them gets a copy.

Legend: P tokens of a trunk.
"""

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from modeling.model_hash import ModelHash
from modeling.trunk_states import TrunkStates

log = logging.getLogger(__name__)

BLOCK_TOKENS = 16
"""Two trunks that share fewer first tokens than these share nothing."""

Tokens = NDArray[np.int64]


@dataclass(slots=True)
class CacheStatistics:
    """What became of the trunks that were looked for, and what the cache holds now."""

    hits: int = 0
    """Trunks found whole."""
    partial_hits: int = 0
    """Trunks of which a beginning was found."""
    misses: int = 0
    evictions: int = 0
    """Trunks dropped because there was no room."""
    too_large: int = 0
    """Trunks larger than the whole cache."""
    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    tokens_P: Tokens
    states: TrunkStates
    blocks: tuple[bytes, ...]
    """Hashes of the tokens up to each block's end."""


class TrunkCache:
    """Least recently used trunks go first once `max_bytes` are full.

    It belongs to one model: `follow_model` empties it when the model has changed. Not safe for
    several threads at once.
    """

    def __init__(self, model: nn.Module, max_bytes: int) -> None:
        """Make an empty cache, and read the model's weights once for their hash.

        Args:
            model: whose states are kept.
            max_bytes: of all keys and values held; 0 keeps nothing.

        Raises:
            ValueError: `max_bytes` is negative.
        """
        if max_bytes < 0:
            raise ValueError(f"a cache of {max_bytes} bytes: give 0 to keep nothing, or more")
        self.max_bytes = max_bytes
        self.statistics = CacheStatistics()
        self.model_hash = ModelHash(model)
        self._hash_of_entries = ""
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._begins: dict[bytes, set[bytes]] = {}
        """By block hash: keys of the entries that begin so."""
        self.follow_model()

    def follow_model(self) -> None:
        """Empty the cache if the model is no longer what it was."""
        if not self.max_bytes:
            return
        now = self.model_hash.value
        if now != self._hash_of_entries:
            self.clear()
            self._hash_of_entries = now

    def clear(self) -> None:
        """Drop everything; counts of the past stay."""
        self._entries.clear()
        self._begins.clear()
        self._count()

    def find(self, tokens_P: Tokens) -> TrunkStates:
        """States of the trunk's longest beginning that is known.

        Where they hold all P tokens (or more, of a trunk that goes on) they are shared, to be read
        only. Otherwise they are the caller's own, recording, of less than P tokens or none.
        """
        key, held = self._longest_beginning(tokens_P)
        if key is None:
            self.statistics.misses += 1
            return TrunkStates()
        self._entries.move_to_end(key)
        if held == len(tokens_P):
            self.statistics.hits += 1
            return self._entries[key].states
        self.statistics.partial_hits += 1
        states = self._entries[key].states.copy(held)
        states.recording = True
        return states

    def keep(self, tokens_P: Tokens, states: TrunkStates) -> None:
        """Hold a trunk's states; they must not change afterwards.

        What it goes on from is dropped: the longer trunk serves both. A trunk larger than the cache
        is not kept, and the first one is warned of.
        """
        blocks = _block_hashes(tokens_P)
        if not self.max_bytes or not blocks:
            return
        size = states.nbytes
        if size > self.max_bytes:
            self._say_too_large(len(tokens_P), size)
            return
        for key in self._begun_by(tokens_P, blocks):
            self._drop(key)
        while self.statistics.bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
            self.statistics.evictions += 1
        key = _hash(tokens_P)
        states.recording = False
        self._entries[key] = _Entry(tokens_P.copy(), states, blocks)
        for block in blocks:
            self._begins.setdefault(block, set()).add(key)
        self._count(size)

    def _longest_beginning(self, tokens_P: Tokens) -> tuple[bytes | None, int]:
        for block in reversed(_block_hashes(tokens_P)):
            if block in self._begins:
                lengths = {
                    key: _common_length(self._entries[key].tokens_P, tokens_P)
                    for key in self._begins[block]
                }
                key = max(lengths, key=lambda key: (lengths[key], key))
                return key, lengths[key]
        return None, 0

    def _begun_by(self, tokens_P: Tokens, blocks: tuple[bytes, ...]) -> list[bytes]:
        """Entries that these tokens begin with, all of them included."""
        return [
            key
            for n, block in enumerate(blocks, start=1)
            for key in self._begins.get(block, ())
            if len(self._entries[key].blocks) == n
            and _begins_with(tokens_P, self._entries[key].tokens_P)
        ]

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        for block in entry.blocks:
            self._begins[block].discard(key)
            if not self._begins[block]:
                del self._begins[block]
        self._count(-entry.states.nbytes)

    def _count(self, added: int | None = None) -> None:
        self.statistics.entries = len(self._entries)
        self.statistics.bytes = 0 if added is None else self.statistics.bytes + added

    def _say_too_large(self, n_tokens: int, size: int) -> None:
        self.statistics.too_large += 1
        if self.statistics.too_large == 1:
            log.warning(
                "a trunk of %d tokens takes %d bytes and the trunk cache has %d: it is scored and "
                "not kept, so that every request encodes it again; raise cache_bytes, or set it to "
                "0 if nothing is to be kept",
                n_tokens,
                size,
                self.max_bytes,
            )


def _hash(tokens: Tokens) -> bytes:
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()


def _block_hashes(tokens_P: Tokens) -> tuple[bytes, ...]:
    """A hash of all tokens up to the end of each whole block."""
    running = hashlib.blake2b(digest_size=16)
    hashes = []
    for end in range(BLOCK_TOKENS, len(tokens_P) + 1, BLOCK_TOKENS):
        running.update(tokens_P[end - BLOCK_TOKENS : end].tobytes())
        hashes.append(running.copy().digest())
    return tuple(hashes)


def _common_length(a: Tokens, b: Tokens) -> int:
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def _begins_with(tokens: Tokens, beginning: Tokens) -> bool:
    return _common_length(tokens, beginning) == len(beginning)
