"""What trees should save on GPUs that nobody here has run: counted, not measured.

Operations are those of `train.throughput`. Bytes are what a pass must move at the least: weights
once per pass (in training once forward, once backward, and the gradient written), and the keys and
values of the prompts written and read once. GPU-seconds divide by the published peaks of an H100
SXM, dense bf16, and take the larger of both: what no implementation can beat, not what one reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.packing import MicroBatch, pack
from launch.bench.workload import TARGETS, TRUNK_TOKENS, made_tree
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.throughput import FlopCounter

H100_FLOPS = 989e12
"""Operations per second: dense bf16, NVIDIA H100 SXM data sheet."""
H100_BANDWIDTH = 3.35e12
"""Bytes per second of its memory, same data sheet."""
BF16_BYTES = 2
VOCABULARY = 128_256
BRANCH_TOKENS = 40

SHAPES = {
    "8b": ModelShape(  # Llama-3.1-8B
        architecture="llama",
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
    "70b": ModelShape(  # Llama-3.1-70B
        architecture="llama",
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One piece of work of one model."""

    model: str
    work: str
    tokens: int
    flops: float
    n_bytes: float

    @property
    def gpu_seconds(self) -> float:
        """At the peaks of one H100, or of as many as the model needs, added up."""
        return max(self.flops / H100_FLOPS, self.n_bytes / H100_BANDWIDTH)

    @property
    def bound(self) -> str:
        """What takes longer."""
        by_flops = self.flops / H100_FLOPS >= self.n_bytes / H100_BANDWIDTH
        return "compute" if by_flops else "memory"


def predictions() -> list[Prediction]:
    """Training and scoring of one tree of the benchmarks' size, in every way."""
    return [prediction for model in SHAPES for prediction in _of(model)]


def prediction_metrics(found: list[Prediction]) -> dict[str, float]:
    """Operations, bytes and GPU-seconds, and ratios of GPU-seconds between ways."""
    metrics: dict[str, float] = {}
    for one in found:
        key = f"predict.h100_{one.model}_{one.work}"
        metrics[f"{key}_flops"] = one.flops
        metrics[f"{key}_bytes"] = one.n_bytes
        metrics[f"{key}_gpu_seconds"] = one.gpu_seconds
    seconds = {(one.model, one.work): one.gpu_seconds for one in found}
    for model in SHAPES:
        ratios = {
            "train_tree_over_l0": seconds[model, "train_l0"] / seconds[model, "train_tree"],
            f"score_packed_over_pairs_k{TARGETS}": seconds[model, f"score_pairs_k{TARGETS}"]
            / seconds[model, f"score_cold_k{TARGETS}"],
            "score_warm_over_cold": seconds[model, "score_cold_k1"]
            / seconds[model, "score_warm_k1"],
        }
        metrics |= {f"predict.h100_{model}_{name}": value for name, value in ratios.items()}
    return metrics


def _of(model: str) -> Iterator[Prediction]:
    shape = SHAPES[model]
    with torch.device("meta"):
        counter = FlopCounter.of(build_backbone(shape, vocab_size=VOCABULARY, seed=0))
    assert counter is not None
    weights = BF16_BYTES * shape.n_parameters(VOCABULARY)
    tree = made_tree(TRUNK_TOKENS, TARGETS, BRANCH_TOKENS, VOCABULARY)
    packed, singles = pack([tree], 1), pack([tree], 1, layout="L0")

    def moved(tokens: int) -> float:
        """Bytes of the keys and values of so many tokens, written and read."""
        return 2.0 * shape.num_hidden_layers * _kv_bytes_per_token(shape) * tokens

    for work, batch in (("train_tree", packed), ("train_l0", singles)):
        n_bytes = 3 * weights + 2 * moved(batch.n_tokens)
        yield Prediction(model, work, batch.n_tokens, counter.flops(batch), n_bytes)
    flops = counter.flops(singles) / 3  # forward alone
    pairs = f"score_pairs_k{TARGETS}"
    yield Prediction(model, pairs, singles.n_tokens, flops, weights + moved(singles.n_tokens))
    for n_targets in (1, TARGETS):
        batch = pack([made_tree(TRUNK_TOKENS, n_targets, BRANCH_TOKENS, VOCABULARY)], 1)
        flops, tokens = counter.flops(batch) / 3, batch.n_tokens
        yield Prediction(model, f"score_cold_k{n_targets}", tokens, flops, weights + moved(tokens))
        flops -= _trunk_flops(counter, batch) / 3
        tokens -= TRUNK_TOKENS
        # The trunk's keys and values are read, not written.
        n_bytes = weights + moved(tokens) + moved(TRUNK_TOKENS) / 2
        yield Prediction(model, f"score_warm_k{n_targets}", tokens, flops, n_bytes)


def _kv_bytes_per_token(shape: ModelShape) -> int:
    """Of one layer: keys and values in bf16."""
    return 2 * shape.num_key_value_heads * shape.head_width * BF16_BYTES


def _trunk_flops(counter: FlopCounter, batch: MicroBatch) -> float:
    """Operations that a cached trunk saves."""
    trunk = int(batch.trunk_lengths[0])
    pairs = int(np.arange(1, trunk + 1).sum())
    return counter.per_token * trunk + counter.per_pair * pairs
