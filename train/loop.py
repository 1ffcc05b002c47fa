"""The training loop, to be read from top to bottom.

A global step: every rank takes its micro-batches, the ranks agree on the step's whole weight, each
micro-batch's gradient is added up, and DeepSpeed clips and updates. The loss of a step is

    sum of weight * loss over all labels of all ranks / sum of weight

whatever the ranks, the micro-batches and the accumulation.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from data_pipeline.packing import MicroBatch
from train.checkpoint import TrainerState
from train.distributed import DistributedContext
from train.distributed.zero import StepOutcome, ZeroEngine
from train.errors import TrainingError
from train.guards import LossGuard, StopRequest
from train.meter import Meter
from train.objectives import Objective, Tally
from train.optimizer import Schedule
from train.profiling import StepProfiler
from train.stream import BatchStream, step_seed
from train.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What the loop works with, all built by `train/run.py`."""

    engine: ZeroEngine
    objective: Objective
    stream: BatchStream
    schedule: Schedule
    guard: LossGuard
    meter: Meter
    tracker: Tracker
    profiler: StepProfiler
    context: DistributedContext
    save: Callable[[TrainerState], None]
    """Write a checkpoint; called on all ranks."""
    evaluate: Callable[[int], None]
    """Score validation targets and record them under this step; called on all ranks."""
    seed: int
    max_steps: int
    logging_steps: int
    save_steps: int
    eval_steps: int | None
    """None never evaluates."""


class Step(NamedTuple):
    """What a global step came to."""

    tally: Tally
    outcome: StepOutcome
    verdict: str
    sums: list[torch.Tensor]
    """The tally of each micro-batch of this rank."""


def train(parts: Parts, state: TrainerState) -> int | None:
    """Run from `state.step` to the last step; `state` moves along.

    Returns:
        The signal that stopped the run early, after a checkpoint; None when it came to its end.

    Raises:
        TrainingError: more bad steps in a row than may be skipped.
        CheckpointError: a checkpoint could not be written.
    """
    saved_step = state.step
    with StopRequest() as stop:
        while state.step < parts.max_steps:
            began = time.perf_counter()
            taken = parts.stream.take(state.step)
            local = [sum(map(parts.objective.weight, taken.batches)), stop.wanted, taken.waited]
            weight, stop_votes, waited = parts.context.all_reduce_sum(np.array(local))
            if stop_votes:  # of any rank: all see the same sum, so all leave here together
                if saved_step < state.step:
                    parts.save(state)
                return _stop_signal(parts.context, stop)

            learning_rate = parts.schedule.learning_rate(state.step)
            step = train_step(parts, state.step, taken.batches, float(weight), learning_rate)
            seconds = time.perf_counter() - began
            _advance(parts, state, step, seconds)
            if not step.outcome.applied:
                _report_skipped(parts, state, step, taken.trees)

            waited /= parts.context.world_size
            parts.meter.add(step.tally, taken, seconds, waited, applied=step.outcome.applied)
            parts.profiler.finished(state.step)
            if _due(parts, state.step, parts.logging_steps):
                norm = step.outcome.grad_norm
                line = parts.meter.line(state.step, learning_rate, norm, state.skipped_steps)
                parts.tracker.log(line)
            if parts.eval_steps and _due(parts, state.step, parts.eval_steps):
                parts.evaluate(state.step)
            if _due(parts, state.step, parts.save_steps):
                parts.save(state)
                saved_step = state.step
    return None


def train_step(
    parts: Parts, number: int, batches: list[MicroBatch], global_weight: float, learning_rate: float
) -> Step:
    """Forward and backward of every micro-batch of this rank, then one update on all ranks.

    Args:
        parts: what the loop works with.
        number: of the step, from 0.
        batches: this rank's micro-batches.
        global_weight: label weight of the whole step, over all ranks.
        learning_rate: of this step's update.
    """
    engine, context = parts.engine, parts.context
    # Dropout of a step is a function of the step as well: a resumed run draws the same.
    torch.manual_seed(step_seed(parts.seed, number, context.rank))
    # DeepSpeed takes the mean over the ranks; ours is a sum over the ranks, by the global weight.
    scale = context.world_size / global_weight
    sums: list[torch.Tensor] = []
    tally, verdict = Tally.zero(parts.objective.n_columns), "good"
    for index, batch in enumerate(batches, start=1):
        last = index == len(batches)
        engine.set_last(last)
        output = parts.objective(engine.model, batch)
        sums.append(output.sums)
        loss = output.loss * scale
        if last:
            total = torch.stack(sums).sum(0)
            tally = Tally(context.all_reduce_sum(total.cpu().numpy()))
            verdict = parts.guard.judge(tally.loss)
            if verdict != "good":
                # DeepSpeed throws away, on all ranks, a gradient that is not finite on one. So a
                # finite loss that is not to be learnt from is made such a gradient.
                loss = loss * math.nan
        engine.backward(loss)
    engine.set_learning_rate(learning_rate)
    outcome = engine.step()
    parts.guard.remember(tally.loss, applied=outcome.applied)
    return Step(tally, outcome, verdict, sums)


def _advance(parts: Parts, state: TrainerState, step: Step, seconds: float) -> None:
    """Count a step. The data stream's whole state is the next index."""
    state.step += 1
    state.next_index = state.step * parts.stream.share.global_batch
    state.skipped_steps += not step.outcome.applied
    state.targets += int(step.tally.total("targets"))
    state.tokens += int(step.tally.total("tokens"))
    consumed = np.array([step.tally.row("targets"), step.tally.row("tokens")], np.int64)
    state.consumed = (consumed + (state.consumed or 0)).tolist()
    state.seconds += seconds
    state.recent_losses = list(parts.guard.losses)
    state.bad_in_a_row = parts.guard.bad_in_a_row


def _due(parts: Parts, step: int, every: int) -> bool:
    return step % every == 0 or step == parts.max_steps


def _report_skipped(parts: Parts, state: TrainerState, step: Step, trees: list[list[int]]) -> None:
    """Say which trees a gradient that was thrown away came from; stop after too many in a row.

    `trees` are those of each micro-batch of this rank.
    """
    micro_batches = zip(trees, step.sums, strict=True)
    mine = [part for part, sums in micro_batches if not sums.isfinite().all()]
    found = parts.context.all_gather_object(mine)
    suspects = sorted(index for rank in found for part in rank for index in part)
    every = f"{state.next_index - parts.stream.share.global_batch} to {state.next_index - 1}"
    what = (
        f"step {state.step} ({'spike' if step.verdict == 'spike' else 'not finite'}): loss "
        f"{step.tally.loss:.4g}, gradient norm {step.outcome.grad_norm:.4g}, "
        f"trees {', '.join(map(str, suspects)) or every}"
    )
    log.warning("skipped %s", what)
    if parts.guard.exhausted:
        raise TrainingError(
            f"{parts.guard.bad_in_a_row} steps in a row had to be skipped; the last: {what}. "
            "Lower learning_rate or lengthen the warmup, and go on from the last checkpoint with "
            "resume_from_checkpoint=true. max_nonfinite_steps says how many may be skipped"
        )


def _stop_signal(context: DistributedContext, stop: StopRequest) -> int:
    """The signal that some rank was sent."""
    return next(number for number in context.all_gather_object(stop.signal) if number is not None)
