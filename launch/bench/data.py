"""How fast one core assembles micro-batches, against tokenizing the same text."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree

TREES_PER_MICRO_BATCH = 4
PARALLELISM = "TOKENIZERS_PARALLELISM"


def bench_data(
    store: TokenStore,
    *,
    config: MixtureConfig | None = None,
    trees: int = 64,
    rounds: int = 9,
    seed: int = 0,
) -> dict[str, float]:
    """Time assembly and tokenization of the same trees, in turns.

    Every round assembles `trees` new trees with `mixture[index]` and packs them, then tokenizes
    their text with the store's own fast tokenizer on one thread: each tree with its trunk once,
    and once more as one full prompt per target. Medians over the rounds are returned. Seconds are
    those of the processor in this process, so that others on the machine do not count.

    Returns:
        Flat metrics: trees and tokens per second of assembly, tokens per second of the tokenizer,
        and how many times faster assembly gives the same tokens.
    """
    mixture = Mixture([store], config or MixtureConfig(), seed=seed)
    backend = store.encoder.tokenizer.backend_tokenizer
    n_tasks = len(mixture.tasks)

    def assemble(first: int) -> list[Tree]:
        made = [mixture[index] for index in range(first, first + trees)]
        for start in range(0, trees, TREES_PER_MICRO_BATCH):
            pack(made[start : start + TREES_PER_MICRO_BATCH], n_tasks)
        return made

    def tokenize(texts: Sequence[str]) -> int:
        with _one_thread():
            encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return sum(len(encoding.ids) for encoding in encodings)

    assemble(0)  # maps the store's pages and fills the caches
    samples: list[dict[str, float]] = []
    for number in range(1, rounds + 1):
        made, assembly_seconds = _timed(assemble, number * trees)
        whole_texts = [_whole_text(store, tree) for tree in made]
        prompts = [text for tree in made for text in _prompts(store, tree)]
        n_read, tokenizer_seconds = _timed(tokenize, whole_texts)
        _, prompts_seconds = _timed(tokenize, prompts)
        n_made = sum(len(tree.trunk) + sum(len(b.tokens) for b in tree.branches) for tree in made)
        samples.append(
            {
                "data.trees_per_s": trees / assembly_seconds,
                "data.tokens_per_s": n_made / assembly_seconds,
                "data.tokenizer_tokens_per_s": n_read / tokenizer_seconds,
                "data.assembly_over_tokenizer": (n_made / assembly_seconds)
                / (n_read / tokenizer_seconds),
                "data.assembly_over_tokenizer_per_prompt": prompts_seconds / assembly_seconds,
                "data.tokens_per_tree": n_made / trees,
                "data.targets_per_tree": len(prompts) / trees,
            }
        )
    return {key: statistics.median(sample[key] for sample in samples) for key in sorted(samples[0])}


@contextmanager
def _one_thread() -> Iterator[None]:
    """One core against one core: the tokenizers library reads this variable at every batch."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def _timed(action: Callable[[Any], Any], argument: object) -> tuple[Any, float]:
    start = time.process_time()
    result = action(argument)
    return result, time.process_time() - start


def _whole_text(store: TokenStore, tree: Tree) -> str:
    pieces = [tree.trunk, *(branch.tokens for branch in tree.branches)]
    return "".join(store.encoder.decode(piece) for piece in pieces)


def _prompts(store: TokenStore, tree: Tree) -> list[str]:
    trunk = store.encoder.decode(tree.trunk)
    return [trunk + store.encoder.decode(branch.tokens) for branch in tree.branches]
