"""How fast one core assembles micro-batches, against tokenizing; whether training waits for it."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.render import Asked, BranchWriter
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree
from launch.bench.runs import trained
from launch.bench.workload import SHAPES
from train.config import TrainConfig

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
    and once more as one full prompt per target. Then it copies the same trees out of the store
    again, with their questions given: what assembly takes but for choosing what to ask. Medians
    over the rounds are returned. Seconds are those of the processor in this process, so that others
    on the machine do not count.

    Returns:
        Flat metrics: trees and tokens per second of assembly, tokens per second of the tokenizer,
        and how many times faster assembly, or its copying alone, gives the same tokens.
    """
    mixture = Mixture([store], config or MixtureConfig(), seed=seed)
    backend = store.encoder.tokenizer.backend_tokenizer
    n_tasks = len(mixture.tasks)
    copier = Copier(mixture)

    def pack_all(made: Sequence[Tree]) -> None:
        for start in range(0, trees, TREES_PER_MICRO_BATCH):
            pack(made[start : start + TREES_PER_MICRO_BATCH], n_tasks)

    def assemble(first: int) -> list[Tree]:
        made = [mixture[index] for index in range(first, first + trees)]
        pack_all(made)
        return made

    def copy(decided: Sequence[Decided]) -> None:
        pack_all([copier.copy(one) for one in decided])

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
        _, copy_seconds = _timed(copy, [Decided.of(tree) for tree in made])
        n_made = sum(len(tree.trunk) + sum(len(b.tokens) for b in tree.branches) for tree in made)
        samples.append(
            {
                "data.trees_per_s": trees / assembly_seconds,
                "data.tokens_per_s": n_made / assembly_seconds,
                "data.tokenizer_tokens_per_s": n_read / tokenizer_seconds,
                "data.assembly_over_tokenizer": (n_made / assembly_seconds)
                / (n_read / tokenizer_seconds),
                "data.assembly_over_tokenizer_per_prompt": prompts_seconds / assembly_seconds,
                "data.copy_over_tokenizer": (n_made / copy_seconds) / (n_read / tokenizer_seconds),
                "data.tokens_per_tree": n_made / trees,
                "data.targets_per_tree": len(prompts) / trees,
            }
        )
    return {key: statistics.median(sample[key] for sample in samples) for key in sorted(samples[0])}


@dataclass(frozen=True, slots=True)
class Decided:
    """A tree before anything is copied: where its history ends, and what is asked."""

    tree: Tree
    asked: tuple[Asked, ...]

    @classmethod
    def of(cls, tree: Tree) -> Decided:
        """Take a tree back to what was decided of it."""
        asked = (Asked(b.task, b.subject, b.question, b.phrasing) for b in tree.branches)
        return cls(tree, tuple(asked))


class Copier:
    """Puts trees of a mixture of one store together whose questions are given."""

    def __init__(self, mixture: Mixture) -> None:
        (self._store,) = mixture.stores
        (self._style,) = mixture.config.styles
        self._room = mixture.config.max_trunk_tokens
        self._writer = BranchWriter(self._store, mixture.tasks)

    def copy(self, decided: Decided) -> Tree:
        """The same tree again, its tokens copied from the store."""
        trunk, _ = self._store.trunk(decided.tree.moment, self._style, self._room)
        return replace(decided.tree, trunk=trunk, branches=self._writer.write(decided.asked))


def wait_shares(store: TokenStore, *, steps: int = 16) -> dict[str, float]:
    """Train a small decoder for a few steps; the share of their time that is spent on waiting.

    One process, 5 million weights in its layers, two trees a step: `data.wait_share` with a thread
    that assembles, `data.wait_share_one_worker` with a process. The first quarter of the steps is
    left out: a process takes some seconds to start.

    Raises:
        WorkersError: a run failed; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch:
        shares = {
            key: _wait_share(store, Path(scratch) / f"{workers}", workers, steps)
            for key, workers in (("data.wait_share", 0), ("data.wait_share_one_worker", 1))
        }
    return shares


def _wait_share(store: TokenStore, run: Path, workers: int, steps: int) -> float:
    config = TrainConfig(
        model=SHAPES["5m"],
        stores=(str(store.folder.absolute()),),
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=steps,
        bf16=False,
        dataloader_num_workers=workers,
    )
    trained(config, f"training with dataloader_num_workers={workers}")
    text = (run / "metrics.jsonl").read_text().splitlines()[steps // 4 :]
    lines: list[dict[str, float]] = [json.loads(line) for line in text]
    waited = sum(line["data_wait_share"] * line["seconds"] for line in lines)
    return waited / sum(line["seconds"] for line in lines)


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
