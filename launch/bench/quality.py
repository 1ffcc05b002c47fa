"""Does it hurt learning that the targets of one step come from few users?

A tree's targets share a user, so a step of large trees sees fewer users than a step of one target
per user does. Here models are trained at equal targets, equal steps and equal settings, with ever
fewer targets per tree and so ever more users per step, and scored on the same validation targets.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree
from launch.bench.runs import trained
from modeling.backbone import load_backbone
from modeling.shape import ModelShape
from train.config import TrainConfig
from train.distributed import DistributedContext
from train.objectives.label import LabelObjective
from train.validation import Validation

SHAPE = ModelShape(
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
TARGETS_PER_STEP = 256
LEARNING_RATE = 3e-3
MIXTURE = MixtureConfig(
    tasks={"like": 1.0, "rating": 1.0},
    history_events=10,
    targets_per_tree=32,
    history_loss_weight=0.0,  # a target more in each trunk, and there are fewer trunks
    history_title_weight=0.0,
)
STEPS = 250
PACKINGS = (32, 8, 1)
"""Targets per tree."""


def bench_quality(
    store: TokenStore,
    *,
    packings: Sequence[int] = PACKINGS,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = STEPS,
    targets: int = 2048,
) -> dict[str, float]:
    """Train with each number of targets per tree, once per seed, and compare.

    Args:
        store: a token store with the tasks `like` and `rating`.
        packings: targets per tree, each a divisor of 256, the targets of a step.
        seeds: of weights and mixture; the validation targets are the same for all.
        steps: of each run.
        targets: validation targets to score.

    Returns:
        For each packing n: `quality.loss_n` and `quality.accuracy_n` on validation targets, means
        over the seeds, each with its standard deviation `_std`; `quality.users_per_step_n`, the
        different users that a step sees.

    Raises:
        WorkersError: a run failed; the message holds the end of its output.
    """
    examined = _validation_trees(store, targets)
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch:
        for seed in seeds:
            for packing in packings:
                run = _train(store, Path(scratch), packing, seed, steps)
                model = load_backbone(run / f"checkpoint-{steps}" / "model")
                for name, value in _score(model, store, examined).items():
                    found.setdefault((name, packing), []).append(value)
    metrics: dict[str, float] = {}
    for (name, packing), values in found.items():
        metrics[f"quality.{name}_{packing}"] = statistics.mean(values)
        if len(values) > 1:
            metrics[f"quality.{name}_{packing}_std"] = statistics.stdev(values)
    for packing in packings:
        metrics[f"quality.users_per_step_{packing}"] = _users_per_step(store, packing)
    return metrics


def _mixture(packing: int) -> MixtureConfig:
    return replace(MIXTURE, targets_per_tree=packing)


def _users_per_step(store: TokenStore, packing: int, steps: int = 8) -> float:
    mixture, size = Mixture([store], _mixture(packing), seed=0), TARGETS_PER_STEP // packing
    return statistics.mean(
        len({mixture[index].moment.user for index in range(step * size, (step + 1) * size)})
        for step in range(steps)
    )


def _train(store: TokenStore, folder: Path, packing: int, seed: int, steps: int) -> Path:
    trees = TARGETS_PER_STEP // packing
    config = TrainConfig(
        model=SHAPE,
        stores=(str(store.folder.absolute()),),
        mixture=_mixture(packing),
        output_dir=str(folder / f"{packing}-{seed}"),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=trees,
        global_batch_size=trees,
        learning_rate=LEARNING_RATE,
        warmup_steps=steps // 20,
        logging_steps=steps,
        save_steps=steps,
        eval_strategy="no",
        save_only_model=True,
        bf16=False,
    )
    return trained(config, f"training with {packing} targets per tree")


def _validation_trees(store: TokenStore, targets: int) -> list[Tree]:
    tasks = Mixture([store], MIXTURE, seed=0).tasks
    examined = EvaluationSet(
        store, tasks, phase=Phase.VALIDATION, config=MIXTURE, seed=0, max_targets=targets
    )
    return list(examined)


def _score(model: nn.Module, store: TokenStore, trees: list[Tree]) -> dict[str, float]:
    n_tasks = len(Mixture([store], MIXTURE, seed=0).tasks)
    validation = Validation(
        trees,
        partial(pack, n_tasks=n_tasks),
        LabelObjective(n_tasks),
        DistributedContext(device=torch.device("cpu")),
        trees_per_micro_batch=8,
    )
    tally = validation.run(model)
    return {"loss": tally.loss, "accuracy": tally.total("correct") / tally.total("answered")}
