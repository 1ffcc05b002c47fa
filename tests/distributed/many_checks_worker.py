"""What one rank of test_ranks.py does: many checks in one launch, results as JSON of rank 0.

Usage: many_checks_worker.py STORE FOLDER [CHECK ...]
"""

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad  # noqa: TID251
from peft import PeftModel
from torch import nn

from data_pipeline.balance import Cost
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone, load_backbone
from modeling.hf_folder import save_hf_folder
from modeling.lora import add_lora, save_adapter
from modeling.shape import ModelShape
from train.assembly import Assembler
from train.checkpoint import CheckpointFolder, TrainerState
from train.distributed import DistributedContext, init_distributed
from train.distributed.zero import ZeroEngine, initialize, partitioned_loading
from train.errors import CheckpointError
from train.guards import LossGuard
from train.loop import Parts, train, train_step
from train.meter import Meter
from train.objectives import LabelObjective, Tally
from train.objectives.base import ROWS
from train.optimizer import Schedule, parameter_groups
from train.profiling import StepProfiler
from train.stream import BatchStream, Share
from train.tracking import Tracker
from train.validation import Validation

SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
GLOBAL_BATCH = 8
STAGES = (0, 1, 2, 3)


class Bench:
    """A mixture, a fresh model per check, and this rank's place."""

    def __init__(self, store: TokenStore, folder: Path, context: DistributedContext) -> None:
        self.folder = folder
        self.context = context
        self.vocabulary = store.card.vocab_size
        mixture_config = MixtureConfig(targets_per_tree=5, history_events=6)
        self.mixture = Mixture([store], mixture_config, seed=1)
        self.n_tasks = len(self.mixture.tasks)
        self.objective = LabelObjective(self.n_tasks)
        self.pack = partial(pack, n_tasks=self.n_tasks)

    def model(self) -> nn.Module:
        return build_backbone(SHAPE, vocab_size=self.vocabulary, seed=0)

    def settings(self, stage: int, micro: int, clip: float) -> dict[str, Any]:
        size = GLOBAL_BATCH // self.context.world_size // micro
        return {
            "train_batch_size": GLOBAL_BATCH,
            "train_micro_batch_size_per_gpu": size,
            "gradient_accumulation_steps": micro,
            "gradient_clipping": clip,
            "zero_optimization": {
                "stage": stage,
                "reduce_bucket_size": 10_000,  # several buckets even of a small model
                "stage3_param_persistence_threshold": 100,
            },
        }

    def engine(
        self, stage: int, micro: int = 1, *, clip: float = 1.0, model: nn.Module | None = None
    ) -> ZeroEngine:
        model = self.model() if model is None else model
        groups = parameter_groups(model, 0.1)
        return initialize(model.train(), groups, self.settings(stage, micro, clip), self.context)

    def parts(self, engine: ZeroEngine, micro: int = 1, **changes: Any) -> Parts:
        share = Share(
            rank=self.context.rank,
            world_size=self.context.world_size,
            trees_per_micro_batch=GLOBAL_BATCH // self.context.world_size // micro,
            micro_batches=micro,
        )
        values: dict[str, Any] = {
            "engine": engine,
            "objective": self.objective,
            "stream": self.stream(share),
            "schedule": Schedule(name="constant", peak=1e-3, warmup_steps=0, total_steps=9),
            "guard": LossGuard(factor=0.0, window=5, limit=3),
            "meter": Meter(("",) * self.objective.n_columns, self.context.device),
            "tracker": Tracker(),
            "profiler": StepProfiler(None, self.folder, self.context.rank),
            "context": self.context,
            "save": lambda state: None,
            "evaluate": lambda step: None,
            "seed": 0,
            "max_steps": 4,
            "logging_steps": 100,
            "save_steps": 100,
            "eval_steps": None,
        }
        return Parts(**(values | changes))

    def stream(self, share: Share, *, balance: bool = True) -> BatchStream:
        return BatchStream(
            [Assembler(self.mixture, self.pack)],
            share,
            cost=Cost(per_token=1.0, per_pair=0.01, per_label=10.0),
            balance=balance,
            sum_over_ranks=self.context.all_reduce_sum,
            prefetch=0,
        )

    def step(self, parts: Parts, number: int) -> Any:
        batches = parts.stream.take(number).batches
        weight = sum(map(parts.objective.weight, batches))
        total = self.context.all_reduce_sum(np.array([weight]))[0]
        return train_step(parts, number, batches, float(total), 1e-3)

    def reference_gradient(self) -> dict[str, torch.Tensor]:
        """Of the whole global batch as one micro-batch, by torch alone."""
        model = self.model().train()
        batch = self.pack([self.mixture[index] for index in range(GLOBAL_BATCH)])
        output = self.objective(model, batch)
        (output.loss / self.objective.weight(batch)).backward()  # type: ignore[no-untyped-call]
        return {name: cast(torch.Tensor, p.grad) for name, p in model.named_parameters()}


@contextmanager
def gradients_kept(engine: ZeroEngine, kept: dict[str, torch.Tensor]) -> Iterator[None]:
    """Copy the whole gradient just before the update."""
    step = engine.step

    def keep_and_step() -> Any:
        for name, parameter in engine.module.named_parameters():
            whole: Any = parameter.grad if engine.stage == 0 else safe_get_full_grad(parameter)
            kept[name] = whole.detach().clone()
        return step()

    engine.step = keep_and_step  # type: ignore[method-assign]
    yield


def check_gradients(bench: Bench) -> dict[str, float]:
    reference = bench.reference_gradient()
    norm = math.sqrt(sum(float(g.square().sum()) for g in reference.values()))
    found = {}
    for stage in STAGES:
        for micro in (1, 4):
            engine = bench.engine(stage, micro, clip=0.0)
            kept: dict[str, torch.Tensor] = {}
            with gradients_kept(engine, kept):
                step = bench.step(bench.parts(engine, micro), 0)
            assert kept.keys() == reference.keys()
            worst = max(float((kept[n] - reference[n]).abs().max()) for n in reference)
            found[f"stage {stage}, accumulation {micro}"] = worst
            found[f"norm, stage {stage}, accumulation {micro}"] = abs(
                step.outcome.grad_norm / norm - 1
            )
            engine.close()
    return found


def check_losses(bench: Bench) -> dict[str, list[float]]:
    """Losses of four steps with clipping, which the ZeRO stages must share."""
    found = {}
    for stage in STAGES:
        engine = bench.engine(stage, clip=0.5)
        parts = bench.parts(engine)
        found[f"stage {stage}"] = [bench.step(parts, number).tally.loss for number in range(4)]
        engine.close()
    return found


def check_balance(bench: Bench) -> dict[str, Any]:
    """Dealt by cost and by stride: the same trees and gradient, in other micro-batches."""
    found: dict[str, Any] = {}
    kept: dict[bool, dict[str, torch.Tensor]] = {}
    for balance in (True, False):
        engine = bench.engine(2, 2, clip=0.0)
        stream = bench.stream(bench.parts(engine, 2).stream.share, balance=balance)
        with gradients_kept(engine, kept.setdefault(balance, {})):
            bench.step(bench.parts(engine, 2, stream=stream), 0)
        taken = stream.take(0)
        found[f"trees, {balance}"] = bench.context.all_gather_object(taken.trees)
        found[f"imbalance, {balance}"] = bench.context.all_gather_object(taken.imbalance)
        engine.close()
    found["worst"] = max(float((kept[True][n] - kept[False][n]).abs().max()) for n in kept[True])
    return found


class OneBadRank:
    """The label objective, but the last rank's loss of one step is broken or huge."""

    def __init__(self, bench: Bench, factor: float) -> None:
        self.inner, self.context, self.factor = bench.objective, bench.context, factor
        self.n_columns, self.weight = self.inner.n_columns, self.inner.weight

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        output = self.inner(model, batch)
        last = self.context.rank == self.context.world_size - 1
        factor = self.factor if last else 1.0
        sums = output.sums.clone()
        sums[ROWS.index("loss")] *= factor
        return type(output)(output.loss * factor, sums)


def check_skipping(bench: Bench) -> dict[str, list[Any]]:
    """A gradient that is not finite on one rank, and a spike, move no rank's weights."""
    found: dict[str, list[Any]] = {}
    for stage in STAGES:
        for what, factor in (("not finite", math.nan), ("spike", 100.0)):
            engine = bench.engine(stage)
            guard = LossGuard(factor=3.0, window=1, limit=3)
            good = bench.parts(engine, guard=guard)
            bench.step(good, 0)
            before = engine.full_state()
            bad = bench.parts(engine, guard=guard, objective=OneBadRank(bench, factor))
            step = bench.step(bad, 1)
            after = engine.full_state()
            still = all(torch.equal(before[name], after[name]) for name in before)
            again = bench.step(good, 2)
            found[f"stage {stage}, {what}"] = [
                step.verdict,
                step.outcome.applied,
                still,
                again.outcome.applied,
                math.isfinite(again.outcome.grad_norm),
            ]
            engine.close()
    return found


def check_full_state(bench: Bench) -> dict[str, bool]:
    reference = dict(bench.model().named_parameters())
    found = {}
    for stage in STAGES:
        engine = bench.engine(stage)
        state = engine.full_state()
        whole = (
            state.keys() == reference.keys()
            and all(torch.equal(state[n], reference[n].detach()) for n in reference)
            if bench.context.is_main
            else not state
        )
        found[f"stage {stage}"] = all(bench.context.all_gather_object(bool(whole)))
        engine.close()
    return found


def check_zero3_pretrained_and_lora(bench: Bench) -> dict[str, Any]:
    """Weights read straight into partitions; an adapter saved whole, reloaded by stock peft."""
    base = bench.folder / "base"
    if bench.context.is_main:
        model: Any = bench.model()
        save_hf_folder(model.state_dict(), model.config, base)
    bench.context.barrier()
    with partitioned_loading(bench.settings(3, 1, 1.0), bench.context):
        loaded = load_backbone(base)
    parts_only = all(p.numel() < p.ds_numel for p in loaded.model.layers[0].parameters())
    adapted = add_lora(loaded, rank=4, alpha=8, seed=0)
    engine = bench.engine(3, model=adapted)
    step = bench.step(bench.parts(engine), 0)
    state = engine.full_state(trainable_only=True)
    found: dict[str, Any] = {"partitioned": parts_only, "applied": step.outcome.applied}
    if bench.context.is_main:
        save_adapter(adapted, bench.folder / "adapter", state=state, base=str(base))
        stock = PeftModel.from_pretrained(load_backbone(base), bench.folder / "adapter")
        back = {name: p for name, p in stock.named_parameters() if "lora_" in name}
        found["tensors"] = len(back)
        found["equal"] = all(torch.equal(back[name], state[name]) for name in back)
        found["moved"] = any(bool(p.any()) for name, p in back.items() if "lora_B" in name)
    engine.close()
    return found


def check_validation(bench: Bench) -> dict[str, float]:
    """Five trees in micro-batches of two: ranks with nothing left go along under ZeRO-3."""
    trees = [bench.mixture[index] for index in range(100, 105)]
    alone = Validation(
        trees, bench.pack, bench.objective, DistributedContext(), trees_per_micro_batch=5
    ).run(bench.model())
    found = {}
    for stage in (2, 3):
        engine = bench.engine(stage)
        tally = Validation(
            trees, bench.pack, bench.objective, bench.context, trees_per_micro_batch=2
        ).run(engine.module)
        found[f"loss, stage {stage}"] = abs(tally.loss / alone.loss - 1)
        found[f"targets, stage {stage}"] = abs(tally.total("targets") - alone.total("targets"))
        found[f"correct, stage {stage}"] = abs(tally.total("correct") - alone.total("correct"))
        engine.close()
    return found


def check_failed_write(bench: Bench) -> dict[str, Any]:
    """The last rank cannot write its shard: all ranks raise, and the old checkpoint stays."""
    run = bench.folder / "run"
    checkpoints = CheckpointFolder(run, bench.context)
    engine = bench.engine(2)
    bench.step(bench.parts(engine), 0)
    checkpoints.save(TrainerState(step=1), "", lambda folder: engine.save_shards(folder / "zero"))
    if bench.context.rank == bench.context.world_size - 1:
        writer = engine._engine.checkpoint_engine
        writer.save = partial(refuse, os.strerror(28))
    message = ""
    try:
        checkpoints.save(
            TrainerState(step=2), "", lambda folder: engine.save_shards(folder / "zero")
        )
    except CheckpointError as error:
        message = str(error)
    found = checkpoints.find(True)
    engine.close()
    return {
        "messages": bench.context.all_gather_object(message),
        "found": found[0].name if found else None,
        "folders": sorted(path.name for path in run.iterdir()),
    }


def refuse(reason: str, state_dict: object, path: str) -> None:
    raise OSError(28, reason)


def check_stop(bench: Bench) -> dict[str, Any]:
    """SIGTERM reaches the last rank alone: all leave after the same step, with a checkpoint."""
    engine = bench.engine(2)
    saved: list[int] = []

    def knock(step: int) -> None:
        if step == 2 and bench.context.rank == bench.context.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    parts = bench.parts(
        engine,
        evaluate=knock,
        eval_steps=1,
        save=lambda state: saved.append(state.step),
    )
    state = TrainerState()
    number = train(parts, state)
    engine.close()
    return {"ranks": bench.context.all_gather_object([number, state.step, saved])}


def check_context(bench: Bench) -> dict[str, Any]:
    context = bench.context
    return {
        "sum": context.all_reduce_sum(np.array([1.0, context.rank])).tolist(),
        "gathered": context.all_gather_object({"rank": context.rank}),
        "broadcast": context.broadcast_object(f"from {context.rank}"),
        "nan": math.isnan(context.all_reduce_sum(np.array([math.nan]))[0]),
        "tally": Tally.zero(2).loss != 0,
    }


CHECKS = (
    check_context,
    check_gradients,
    check_losses,
    check_balance,
    check_skipping,
    check_full_state,
    check_zero3_pretrained_and_lora,
    check_validation,
    check_failed_write,
    check_stop,
)


def main() -> None:
    store, folder = TokenStore.open(sys.argv[1]), Path(sys.argv[2])
    context = init_distributed(120)
    bench = Bench(store, folder, context)
    named = {check.__name__.removeprefix("check_"): check for check in CHECKS}
    results = {name: named[name](bench) for name in sys.argv[3:] or named}
    if context.is_main:
        (folder / "results.json").write_text(json.dumps(results))
    context.close()


if __name__ == "__main__":
    main()
