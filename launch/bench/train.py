"""Training: trees against one prompt per target, of our own and of TRL's packing.

Targets per second count forward, backward and the optimiser's step. One prompt per target (L0) does
not fit into memory at once, so it is what a trainer would run: micro-batches with gradient
accumulation and one optimiser step for all targets of a tree. A sample of each tree's targets is
timed and their seconds are taken for the rest by tokens.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_pipeline.packing import MicroBatch, pack
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree
from launch.bench.memory import peak_memory
from launch.bench.peer import Peer
from launch.bench.timing import gemm_case, gemm_flops, median_ratio, stopwatch
from launch.bench.workload import (
    TARGETS,
    Size,
    Workload,
    benchmark_trees,
    prompts_of,
    random_model,
    spread,
)
from modeling.hf_folder import save_hf_folder
from train.objectives import LabelObjective
from train.throughput import FlopCounter

LEARNING_RATE = 1e-5
L0_TARGETS: dict[Size, int] = {"135m": 4, "5m": 8}
"""Targets of each tree that are timed as prompts of their own: a tree of 32 would take minutes."""
MEMORY_TARGETS: dict[Size, int] = {"135m": 8, "5m": TARGETS}
"""Targets of the memory comparison: as many prompts as 24 GiB hold in one micro-batch."""


def bench_train(
    store: TokenStore,
    *,
    size: Size = "135m",
    rounds: int = 3,
    trl_python: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Measure in turns, every round on a new tree.

    Args:
        store: where the trees come from.
        size: shape of the model; its weights are random.
        rounds: trees; medians over them count.
        trl_python: the Python of an environment with TRL; None leaves TRL out.
        note: told what is being done and on what.

    Raises:
        PeerError: TRL failed.
    """
    work = benchmark_trees(store, rounds + 1)
    model = random_model(size, work.vocab_size).train()
    with ExitStack() as stack:
        trl = None
        if trl_python is not None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="brewhouse-")))
            trl = stack.enter_context(_trl(trl_python, model, work, store, rounds, scratch))
            note(f"TRL says: {trl.ready}")
        trainer = _Trainer(model, work)
        note(
            f"{size}: L0 is timed on {L0_TARGETS[size]} of {TARGETS} targets of each tree, its "
            f"other targets are taken to cost the same per token"
        )
        first, *others = work.trees
        _round(trainer, spread(first, 1), 1, trl)  # warms up
        samples = []
        for tree in others:
            samples.append(_round(trainer, tree, L0_TARGETS[size], trl))
            note(_words_of(samples[-1]))
    metrics = _summary(samples)
    note(f"peak memory of a step at {MEMORY_TARGETS[size]} targets, in processes of their own")
    return metrics | _memory(store, size)


class _Trainer:
    """A model with its optimiser, and the seconds of one step's parts."""

    def __init__(self, model: nn.Module, work: Workload) -> None:
        self.model = model
        self.objective = LabelObjective(work.n_tasks)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        counter = FlopCounter.of(model)
        assert counter is not None, "the benchmarks' shapes have no experts"
        self.counter = counter
        self.n_tasks = work.n_tasks

    def batch(self, tree: Tree, layout: Any) -> MicroBatch:
        """Pack one tree."""
        return pack([tree], self.n_tasks, layout=layout)

    def seconds(self, batch: MicroBatch) -> float:
        """Forward and backward; the gradient stays."""

        def forward_backward() -> None:
            loss = self.objective(self.model, batch).loss / self.objective.weight(batch)
            loss.backward()  # type: ignore[no-untyped-call]

        self.optimizer.zero_grad()
        return stopwatch(forward_backward)()

    def step_seconds(self) -> float:
        """One update with the gradient that is there."""
        return stopwatch(self.optimizer.step)()


def _round(trainer: _Trainer, tree: Tree, l0_targets: int, trl: Peer | None) -> dict[str, float]:
    """One tree in every way."""
    packed, singles = trainer.batch(tree, "L2"), trainer.batch(tree, "L0")
    sample = trainer.batch(spread(tree, l0_targets), "L0")
    gemm = gemm_case()
    gemm()
    gemm_seconds = gemm()
    tree_seconds = trainer.seconds(packed)
    l0_seconds = trainer.seconds(sample) * singles.n_tokens / sample.n_tokens
    update = trainer.step_seconds()
    gemm_seconds = min(gemm_seconds, gemm())
    flops, flops_l0 = trainer.counter.flops(packed), trainer.counter.flops(singles)
    found = {
        "tree_targets_per_s": packed.n_targets / (tree_seconds + update),
        "l0_targets_per_s": packed.n_targets / (l0_seconds + update),
        "tree_tokens_per_s": packed.n_tokens / tree_seconds,
        "l0_tokens_per_s": singles.n_tokens / l0_seconds,
        "update_seconds": update,
        "token_ratio": singles.n_tokens / packed.n_tokens,
        "flop_ratio": flops_l0 / flops,
        "gemm_flops_per_s": gemm_flops() / gemm_seconds,
        "model_flops_per_s": flops / tree_seconds,
        "flops_utilisation": flops / tree_seconds * gemm_seconds / gemm_flops(),
        "l0_flops_utilisation": flops_l0 / l0_seconds * gemm_seconds / gemm_flops(),
        "tree_tokens": packed.n_tokens,
        "trunk_tokens": len(tree.trunk),
    }
    if trl is not None:
        found["trl_targets_per_s"] = _trl_targets_per_second(trl, singles, packed.n_targets)
    return found


def _words_of(sample: dict[str, float]) -> str:
    rates = (f"{key} {value:.3g}" for key, value in sample.items() if "targets_per_s" in key)
    return f"{', '.join(rates)}, token_ratio {sample['token_ratio']:.3g}"


def _summary(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians, and ratios taken within a round."""

    def of(key: str) -> list[float]:
        return [sample[key] for sample in samples]

    metrics = {f"train.{key}": statistics.median(of(key)) for key in samples[0]}
    metrics["train.tree_over_l0"] = median_ratio(of("tree_targets_per_s"), of("l0_targets_per_s"))
    reached = [s["tree_targets_per_s"] / s["l0_targets_per_s"] / s["token_ratio"] for s in samples]
    metrics["train.share_of_token_ratio"] = statistics.median(reached)
    if "trl_targets_per_s" in samples[0]:
        metrics["train.tree_over_trl"] = median_ratio(
            of("tree_targets_per_s"), of("trl_targets_per_s")
        )
        metrics["train.l0_over_trl"] = median_ratio(of("l0_targets_per_s"), of("trl_targets_per_s"))
    return metrics


def _trl(
    python: Path, model: Any, work: Workload, store: TokenStore, rounds: int, scratch: Path
) -> Peer:
    """TRL with the same prompts, weights and threads; a packed row is as long as a tree's."""
    folder = scratch / "model"
    save_hf_folder(model.state_dict(), model.config, folder)
    row = max(pack([tree], work.n_tasks).n_tokens for tree in work.trees)
    prompts = [
        {
            "input_ids": prompt.tokens_T.tolist(),
            "completion_mask": [0] * (len(prompt.tokens_T) - prompt.answer_length)
            + [1] * prompt.answer_length,
        }
        for tree in work.trees
        for prompt in prompts_of(tree)
    ]
    settings = {
        "model": str(folder),
        "tokenizer": str(store.tokenizer_folder),
        "output": str(scratch / "run"),
        "prompts": prompts,
        "max_length": row,
        "max_steps": rounds + 2,
        "learning_rate": LEARNING_RATE,
    }
    return Peer(python, "trl_packing.py", settings, scratch / "trl")


def _trl_targets_per_second(trl: Peer, singles: MicroBatch, n_targets: int) -> float:
    """Of a tree's targets: TRL's micro-batch taken for the rest by tokens, and one update."""
    step = trl.ask()
    seconds = step["forward_backward_seconds"] * singles.n_tokens / step["tokens"]
    return float(n_targets / (seconds + step["optimizer_seconds"]))


def _memory(store: TokenStore, size: Size) -> dict[str, float]:
    """Peaks of a step in processes of their own, both on the same targets in one micro-batch."""
    n_targets = MEMORY_TARGETS[size]
    tree, l0 = (peak_memory(store.folder, size, n_targets, layout) for layout in ("L2", "L0"))
    return {
        "train.memory_targets": float(n_targets),
        "train.memory_tree_mib": tree.step,
        "train.memory_l0_mib": l0.step,
        "train.memory_tree_over_l0": tree.step / l0.step,
        "train.memory_tree_over_l0_whole_process": tree.peak / l0.peak,
    }
