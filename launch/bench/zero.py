"""What must not differ: processes, ZeRO stages, a resumed run, and the two layouts of a tree."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import Layout, pack
from data_pipeline.store import TokenStore
from launch.bench.runs import trained
from launch.bench.stores import movielens_store
from modeling.backbone import build_backbone
from modeling.exactness import KeepDouble
from modeling.shape import ModelShape
from train.config import TrainConfig
from train.objectives.label import LabelObjective, logits_at_labels

SHAPE = ModelShape(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
MIXTURE = MixtureConfig(targets_per_tree=8, history_events=12)
STEPS = 50
RESUMED_AT = 25


def bench_zero(store: Path | None = None) -> dict[str, float]:
    """Train the same 50 steps in every way that must give the same, and compare.

    Args:
        store: a token store; MovieLens-100K, fetched and compiled, when there is none.

    Returns:
        `zero.max_relative_loss_difference` of any step on 1 or 2 processes under ZeRO-0, 2 or 3;
        `zero.resume_bit_equal` 1.0 when 25 steps, a stop and 25 more give the weights of 50;
        `tree.max_logit_difference_fp64` and `tree.max_gradient_difference_fp64` between trees and
        one prompt per target.

    Raises:
        WorkersError: a run failed; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch:
        folder = Path(scratch)
        opened = TokenStore.open(store) if store else movielens_store(folder)
        runs = {
            (processes, stage): _train(opened, folder, processes, stage)
            for processes in (1, 2)
            for stage in (0, 2, 3)
        }
        losses = {which: _losses(run) for which, run in runs.items()}
        resumed = _train(opened, folder, 2, 2, resume=runs[2, 2] / f"checkpoint-{RESUMED_AT}")
        bit_equal = _same_weights(runs[2, 2], resumed)
        bit_equal &= _losses(resumed) == losses[2, 2][RESUMED_AT:]
        logits, gradients = tree_differences(opened)
    return {
        "zero.max_relative_loss_difference": _largest_difference(losses),
        "zero.resume_bit_equal": float(bit_equal),
        "tree.max_logit_difference_fp64": logits,
        "tree.max_gradient_difference_fp64": gradients,
    }


def tree_differences(store: TokenStore, *, trees: int = 4, seed: int = 0) -> tuple[float, float]:
    """Largest differences of label logits and gradients between layouts L2 and L0, in fp64."""
    mixture = Mixture([store], replace(MIXTURE, history_title_weight=0.1), seed=seed)
    objective = LabelObjective(len(mixture.tasks))
    model = build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=seed).double()
    chosen = [mixture[index] for index in range(trees)]
    results = []
    layouts: tuple[Layout, Layout] = ("L2", "L0")
    for layout in layouts:
        batch = pack(chosen, len(mixture.tasks), layout=layout)
        with KeepDouble():
            logits_MV = logits_at_labels(model, batch, torch.device("cpu")).detach()
            model.zero_grad()
            (objective(model, batch).loss / objective.weight(batch)).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([logits_MV, *gradients])
    differences = [float((one - other).abs().max()) for one, other in zip(*results, strict=True)]
    return differences[0], max(differences[1:])


def _train(
    store: TokenStore, folder: Path, processes: int, stage: int, *, resume: Path | None = None
) -> Path:
    run = folder / f"{processes}-{stage}{'-resumed' if resume else ''}"
    config = TrainConfig(
        model=SHAPE,
        stores=(str(store.folder.absolute()),),
        mixture=MIXTURE,
        output_dir=str(run),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        global_batch_size=8,
        learning_rate=1e-3,
        warmup_steps=5,
        logging_steps=1,
        save_steps=RESUMED_AT,
        deepspeed=f"zero{stage}",
        bf16=False,
        resume_from_checkpoint=str(resume) if resume else False,
    )
    return trained(
        config,
        f"{processes} processes under ZeRO-{stage}",
        num_procs=processes,
        env={"OMP_NUM_THREADS": "1"},  # so small a model gains nothing from more
    )


def _losses(run: Path) -> list[float]:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return [line["loss"] for line in lines]


def _largest_difference(losses: Mapping[tuple[int, int], list[float]]) -> float:
    reference = losses[1, 0]
    assert len(reference) == STEPS
    return max(
        abs(loss / expected - 1.0)
        for run in losses.values()
        for loss, expected in zip(run, reference, strict=True)
    )


def _same_weights(one: Path, other: Path) -> bool:
    states = [
        load_file(run / f"checkpoint-{STEPS}" / "model" / "model.safetensors")
        for run in (one, other)
    ]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )
