"""Puts a run together from its config: data, model, engine, and where the run stands."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from data_pipeline.balance import Cost
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture
from data_pipeline.packing import MicroBatch, pack
from data_pipeline.plan import HISTORY, named_counts
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore, open_stores
from data_pipeline.tree import Tree
from train.assembly import Assembles, Recipe, assembler_of
from train.assembly_process import AssemblyProcess
from train.checkpoint import CheckpointFolder, TrainerState, check_same_run, write_once
from train.config import BatchSizes, TrainConfig, config_fingerprint, resolved
from train.distributed import DistributedContext
from train.distributed.zero import ZeroEngine, initialize
from train.distributed.zero_config import zero_stage
from train.guards import LossGuard
from train.loop import Parts
from train.meter import Meter, evaluation_line
from train.model_setup import exchange_kernels, make_model, write_model, zero_settings
from train.objectives import LabelObjective, Objective
from train.optimizer import Schedule, parameter_groups
from train.plugins import loaded_plugins
from train.profiling import StepProfiler
from train.progress import show_progress
from train.run_folder import CONFIG, FINISHED, METRICS, SUMMARY
from train.stream import BatchStream, Share
from train.throughput import FlopCounter, peak_memory_mb
from train.tracking import JsonlSink, ProgressSink, Sink, Tracker, WandbSink
from train.validation import Validation

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A run that is ready to train."""

    config: TrainConfig
    parts: Parts
    state: TrainerState
    mixture: Mixture

    def finish(self, stopped_by: int | None) -> None:
        """Write summary.json, and the marker of a run that came to its end."""
        parts, state, run = self.parts, self.state, Path(self.config.output_dir)
        memory = parts.context.all_gather_object(peak_memory_mb(parts.context.device))
        summary = {
            "steps": state.step,
            "skipped_steps": state.skipped_steps,
            "seconds": state.seconds,
            "targets": state.targets,
            "tokens": state.tokens,
            "global_batch": state.global_batch,
            "consumed": named_counts(self.mixture, state.consumed),
            "peak_memory_mb": memory,
            **parts.meter.flow.summary(),
        }
        write_once(run / SUMMARY, json.dumps(summary, indent=1), parts.context)
        if stopped_by is None:
            marker = {"config_fingerprint": config_fingerprint(self.config), "step": state.step}
            write_once(run / FINISHED, json.dumps(marker), parts.context)

    def close(self, *, failed: bool) -> None:
        """End threads, traces and sinks, whatever happened."""
        self.parts.profiler.close()
        self.parts.stream.close()
        self.parts.tracker.close(int(failed))
        self.parts.engine.close()


def build_run(config: TrainConfig, context: DistributedContext) -> Built:
    """Everything that the loop works with, on this rank.

    The order matters: what can be refused without loading a model is refused first.

    Raises:
        DataError, ConfigError, CheckpointError: says what does not fit, and the cure.
    """
    stores = open_stores(config.stores)
    mixture = Mixture(stores, config.mixture, seed=config.seed)
    batch = config.resolve_batch(context.world_size)
    state, checkpoint = _where_it_stands(config, mixture, batch, context)

    engine = _engine(config, stores[0], context)
    mixture.context_length = getattr(engine.module.config, "max_position_embeddings", None)
    if checkpoint is not None:
        engine.load_shards(checkpoint / "zero")
        log.info("going on from %s", checkpoint)

    names = (*(task.name for task in mixture.tasks), HISTORY)
    objective = LabelObjective(
        len(mixture.tasks),
        n_corpora=len(stores),
        label_loss=config.label_loss,
        window_forgetting=config.window_forgetting,
    )
    packed = partial(pack, n_tasks=len(mixture.tasks), n_corpora=len(stores))
    made_by = {"fingerprints": mixture.fingerprints, "plugins": loaded_plugins()}
    text = resolved(config, made_by)
    write_once(Path(config.output_dir) / CONFIG, text, context)
    tracker = _tracker(config, state, context)
    share = Share(
        rank=context.rank,
        world_size=context.world_size,
        trees_per_micro_batch=batch.per_device,
        micro_batches=batch.accumulation,
    )
    counter = FlopCounter.of(engine.module)
    parts = Parts(
        engine=engine,
        objective=objective,
        stream=_stream(config, mixture, share, counter, context),
        schedule=_schedule(config),
        guard=_guard(config, state),
        meter=Meter(names, context.device, counter, corpora=mixture.corpus_names),
        tracker=tracker,
        profiler=StepProfiler(
            config.profile_steps,
            Path(config.output_dir) / "profile",
            context.rank,
            step=state.step,
        ),
        context=context,
        save=_saver(config, text, engine, stores[0], context),
        evaluate=_evaluator(config, mixture, packed, objective, engine, tracker, names, context),
        seed=config.seed,
        max_steps=config.max_steps,
        logging_steps=config.logging_steps,
        save_steps=config.save_steps,
        eval_steps=config.eval_steps if config.eval_strategy == "steps" else None,
    )
    return Built(config=config, parts=parts, state=state, mixture=mixture)


def _where_it_stands(
    config: TrainConfig, mixture: Mixture, batch: BatchSizes, context: DistributedContext
) -> tuple[TrainerState, Path | None]:
    """The state to start with: of a fresh run, or of the checkpoint to go on from."""
    fresh = TrainerState(
        fingerprints=mixture.fingerprints,
        seed=config.seed,
        global_batch=batch.total,
        world_size=context.world_size,
        zero_stage=zero_stage(config),
        only_model=config.save_only_model,
    )
    folder = CheckpointFolder(Path(config.output_dir), context)
    found = folder.find(config.resume_from_checkpoint)
    if found is None:
        return fresh, None
    path, saved = found
    check_same_run(path, saved, fresh)
    return saved, path


def _engine(config: TrainConfig, store: TokenStore, context: DistributedContext) -> ZeroEngine:
    cuda = context.device.type == "cuda"
    bf16 = config.resolve_bf16(
        context.device.type, supported=not cuda or torch.cuda.is_bf16_supported()
    )
    model = make_model(config, store, context, bf16=bf16)
    settings = zero_settings(config, model, context, bf16=bf16)
    engine = initialize(
        model,
        parameter_groups(model, config.weight_decay),
        settings,
        context,
        timeout_seconds=config.ddp_timeout,
    )
    exchange_kernels(config, engine, context.device)
    return engine


def _stream(
    config: TrainConfig,
    mixture: Mixture,
    share: Share,
    cost: Cost | None,
    context: DistributedContext,
) -> BatchStream:
    recipe = Recipe(
        stores=config.stores,
        mixture=config.mixture,
        seed=config.seed,
        plugins=config.plugins,
        layout=config.attn_layout,
        context_length=mixture.context_length,
    )
    assemblers: list[Assembles] = [
        AssemblyProcess(recipe) for _ in range(config.dataloader_num_workers)
    ]
    return BatchStream(
        assemblers or [assembler_of(mixture, config.attn_layout)],
        share,
        cost=cost or Cost(per_token=1.0),
        balance=config.balance_micro_batches,
        sum_over_ranks=context.all_reduce_sum,
        prefetch=math.ceil(config.dataloader_prefetch / share.micro_batches),
        min_users=config.min_users_per_step,
        pin=context.device.type == "cuda",
    )


def _schedule(config: TrainConfig) -> Schedule:
    return Schedule(
        name=config.lr_scheduler_type,
        peak=config.learning_rate,
        warmup_steps=config.total_warmup_steps,
        total_steps=config.max_steps,
        floor_ratio=config.min_learning_rate_ratio,
    )


def _guard(config: TrainConfig, state: TrainerState) -> LossGuard:
    guard = LossGuard(
        factor=config.loss_spike_factor or 0.0,
        window=config.loss_spike_window,
        limit=config.max_nonfinite_steps,
        losses=state.recent_losses,
    )
    guard.bad_in_a_row = state.bad_in_a_row
    return guard


def _tracker(config: TrainConfig, state: TrainerState, context: DistributedContext) -> Tracker:
    """Sinks on the main rank, none elsewhere. The id of the W&B run goes into the state."""
    if not context.is_main:
        return Tracker()
    run = Path(config.output_dir)
    view = show_progress(config.max_steps, "train", done=state.step)
    sinks: list[Sink] = [
        JsonlSink(run / METRICS, step=state.step),
        ProgressSink(view, step=state.step),
    ]
    if config.report_to == "wandb":
        name = config.run_name or run.name
        wandb = WandbSink(run, name=name, config=asdict(config), run_id=state.wandb_id)
        state.wandb_id = wandb.run_id
        sinks.append(wandb)
    return Tracker(sinks)


def _saver(
    config: TrainConfig,
    text: str,
    engine: ZeroEngine,
    store: TokenStore,
    context: DistributedContext,
) -> Callable[[TrainerState], None]:
    checkpoints = CheckpointFolder(Path(config.output_dir), context, keep=config.save_total_limit)

    def write(folder: Path) -> None:
        if not config.save_only_model:
            engine.save_shards(folder / "zero")
        write_model(engine, config, store.tokenizer_folder, context, folder / "model")

    def save(state: TrainerState) -> None:
        checkpoints.save(state, text, write)

    return save


def _evaluator(
    config: TrainConfig,
    mixture: Mixture,
    packed: Callable[[Sequence[Tree]], MicroBatch],
    objective: Objective,
    engine: ZeroEngine,
    tracker: Tracker,
    names: tuple[str, ...],
    context: DistributedContext,
) -> Callable[[int], None]:
    if config.eval_strategy == "no":
        return lambda step: None
    validation = Validation(
        _validation_trees(config, mixture),
        packed,
        objective,
        context,
        trees_per_micro_batch=config.per_device_train_batch_size,
    )
    decode = mixture.stores[0].encoder.decode

    def evaluate(step: int) -> None:
        model: nn.Module = engine.module
        tally = validation.run(model)
        tracker.log(evaluation_line(step, tally, names, mixture.corpus_names))
        tracker.show_examples(step, validation.examples(model, names, decode))

    return evaluate


def _validation_trees(config: TrainConfig, mixture: Mixture) -> list[Tree]:
    sets: list[EvaluationSet] = [
        EvaluationSet(
            store,
            mixture.tasks,
            phase=Phase.VALIDATION,
            config=config.mixture,
            seed=config.seed,
            max_targets=config.eval_max_targets,
        )
        for store in mixture.stores
    ]
    return [replace(tree, corpus=corpus) for corpus, trees in enumerate(sets) for tree in trees]
