"""The loop without processes: guards, skipped steps, stopping, the log."""

import json
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from data_pipeline.balance import Cost
from data_pipeline.packing import MicroBatch, pack
from data_pipeline.tree import NOBODY, Branch, Question, Tree
from train.assembly import Assembler
from train.checkpoint import TrainerState
from train.distributed import DistributedContext
from train.distributed.zero import StepOutcome
from train.errors import TrainingError
from train.guards import LossGuard, StopRequest
from train.loop import Parts, train
from train.meter import Meter
from train.objectives.base import ROWS, ObjectiveOutput
from train.optimizer import Schedule
from train.profiling import StepProfiler
from train.stream import BatchStream, Share
from train.tracking import JsonlSink, Tracker


def tree(index: int) -> Tree:
    """A tree whose one label token is its index."""
    ids = np.array([1, 2], np.int32)
    branch = Branch(
        task=index % 2,
        subject=0,
        phrasing=0,
        tokens=ids,
        answer=np.array([index], np.int32),
        choices=np.array([], np.int32),
        question=Question(label=0),
    )
    return Tree(corpus=0, moment=NOBODY, trunk=ids, branches=(branch,))


class Endless:
    """Trees by index, and what was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Tree:
        self.asked.append(index)
        return tree(index)


def stream(trees: Endless) -> BatchStream:
    """Of one rank with two micro-batches of two trees."""
    share = Share(rank=0, world_size=1, trees_per_micro_batch=2, micro_batches=2)
    return BatchStream([Assembler(trees, partial(pack, n_tasks=2))], share, cost=Cost(1.0))


def test_a_spike_is_measured_against_the_median_of_a_full_window() -> None:
    guard = LossGuard(factor=3.0, window=3, limit=2)
    for loss in (1.0, 1.2):
        assert guard.judge(50.0) == "good"  # the window is not full yet
        guard.remember(loss, applied=True)
    guard.remember(90.0, applied=True)  # one outlier in the window moves a mean, not a median
    assert guard.judge(3.5) == "good"
    assert guard.judge(3.7) == "spike"
    assert guard.judge(math.nan) == guard.judge(math.inf) == "not finite"


def test_bad_steps_count_in_a_row_only() -> None:
    guard = LossGuard(factor=0.0, window=3, limit=1)
    for applied, exhausted in ((False, False), (True, False), (False, False), (False, True)):
        guard.remember(1.0, applied=applied)
        assert guard.exhausted is exhausted
    assert guard.judge(1e30) == "good"  # factor 0 judges finiteness only


class FakeEngine:
    """Behaves as DeepSpeed does: a gradient that is not finite is thrown away."""

    def __init__(self) -> None:
        self.module = self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.module.weight)
        self.rates: list[float] = []
        self.lasts: list[bool] = []

    def set_last(self, last: bool) -> None:
        self.lasts.append(last)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def set_learning_rate(self, rate: float) -> None:
        self.rates.append(rate)

    def step(self) -> StepOutcome:
        assert self.module.weight.grad is not None
        norm = float(self.module.weight.grad.norm())
        applied = math.isfinite(norm)
        if applied:
            with torch.no_grad():
                self.module.weight -= 0.01 * self.module.weight.grad
        self.module.weight.grad = None
        return StepOutcome(applied, norm)


class FakeObjective:
    """Loss = weight parameter x the mean of a number that each tree's index decides."""

    n_columns = 3

    def __init__(self, number: Callable[[int], float] = lambda index: 1.0) -> None:
        self.number = number

    def weight(self, batch: MicroBatch) -> float:
        return float(batch.label_weights_M.sum())

    def __call__(self, model: nn.Module, batch: MicroBatch) -> ObjectiveOutput:
        number = sum(map(self.number, batch.label_tokens_M.tolist())) / batch.n_trees
        loss = cast(nn.Linear, model).weight.sum() * number * self.weight(batch)
        sums = torch.zeros(len(ROWS), 3, dtype=torch.float64)
        sums[ROWS.index("loss"), 0] = loss.item()
        sums[ROWS.index("weight"), 0] = self.weight(batch)
        sums[ROWS.index("targets"), 0] = batch.n_targets
        sums[ROWS.index("tokens"), 2] = batch.n_tokens
        return ObjectiveOutput(loss, sums)


class Fixture:
    """Parts for the loop, and what it did with them."""

    def __init__(self, folder: Path, *, steps: int = 6, **changes: Any) -> None:
        self.folder = folder
        self.engine = FakeEngine()
        self.trees = Endless()
        self.saved: list[int] = []
        self.evaluated: list[int] = []
        context = DistributedContext()
        self.guard = changes.pop("guard", LossGuard(factor=0.0, window=5, limit=1))
        values: dict[str, Any] = {
            "engine": self.engine,
            "objective": FakeObjective(changes.pop("number", lambda index: 1.0)),
            "stream": stream(self.trees),
            "schedule": Schedule(name="linear", peak=1.0, warmup_steps=0, total_steps=steps),
            "guard": self.guard,
            "meter": Meter(("a", "b", "history"), context.device),
            "tracker": Tracker([JsonlSink(folder / "metrics.jsonl")]),
            "profiler": StepProfiler(None, folder / "profile", 0),
            "context": context,
            "save": lambda state: self.saved.append(state.step),
            "evaluate": self.evaluated.append,
            "seed": 0,
            "max_steps": steps,
            "logging_steps": 2,
            "save_steps": 4,
            "eval_steps": 3,
        }
        self.parts = Parts(**(values | changes))

    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def test_the_loop_logs_evaluates_and_saves_when_it_is_due(tmp_path: Path) -> None:
    run, state = Fixture(tmp_path), TrainerState()
    assert train(run.parts, state) is None
    assert run.saved == [4, 6]
    assert run.evaluated == [3, 6]
    assert run.engine.rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    assert run.engine.lasts == [False, True] * 6
    assert (state.step, state.next_index, state.targets) == (6, 24, 24)
    lines = run.lines()
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["targets"] for line in lines] == [8, 8, 8]
    assert lines[0]["tokens"] == 2 * 4 * 4
    assert lines[0]["tasks"]["a"]["targets"] == 8
    assert lines[0]["learning_rate"] == pytest.approx(0.8)
    assert lines[0]["grad_norm"] == pytest.approx(1.0)  # the mean of the targets' gradients
    assert "mfu" not in lines[0]  # nobody knows this device's peak
    assert 0 <= lines[0]["data_wait_share"] < 1
    assert lines[0]["imbalance"] == lines[0]["imbalance_strided"] == 1.0  # one rank waits for none
    needed = {"targets_per_s", "tokens_per_s", "padding_share", "memory_mb", "seconds"}
    assert needed <= set(lines[0])


def test_the_loop_goes_on_where_the_state_says(tmp_path: Path) -> None:
    run, state = Fixture(tmp_path), TrainerState(step=5, next_index=20)
    train(run.parts, state)
    assert run.engine.rates == pytest.approx([0.0])
    assert run.trees.asked[:4] == [20, 21, 22, 23]


def test_a_loss_that_is_not_finite_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Fixture(tmp_path, number=lambda index: math.nan if index == 6 else 1.0)
    state = TrainerState()
    train(run.parts, state)
    assert state.skipped_steps == 1
    assert run.engine.module.weight.isfinite().all()
    # Step 2 holds trees 4 to 7 in two micro-batches, dealt as 4, 7 and 5, 6 for they cost the same;
    # only the one with tree 6 is suspect.
    assert "skipped step 2 (not finite): loss nan, gradient norm nan, trees 5, 6\n" in caplog.text
    first = run.lines()[0]
    assert first["skipped_steps"] == 1
    assert first["loss"] == pytest.approx(1.0, abs=0.02)  # of the step that counted
    assert first["targets"] == 4


def test_too_many_bad_steps_stop_the_run_and_name_the_trees(tmp_path: Path) -> None:
    run = Fixture(tmp_path, number=lambda index: math.nan if index >= 8 else 1.0)
    with pytest.raises(TrainingError, match="2 steps in a row had to be skipped") as caught:
        train(run.parts, TrainerState())
    assert "trees 12, 13, 14, 15" in str(caught.value)
    assert run.saved == []


def test_a_spike_leaves_the_weights_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard = LossGuard(factor=3.0, window=2, limit=1)
    run = Fixture(tmp_path, guard=guard, number=lambda index: 100.0 if 12 <= index < 16 else 1.0)
    state = TrainerState()
    train(run.parts, state)
    assert state.skipped_steps == 1
    assert "skipped step 4 (spike)" in caplog.text
    assert "trees 12 to 15" in caplog.text
    # Five steps of gradient 1 were applied, the spike's was not.
    assert run.engine.module.weight.item() == pytest.approx(1 - 5 * 0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_a_checkpoint_after_the_step(tmp_path: Path, number: int) -> None:
    def knock(index: int) -> float:
        if index == 8:
            os.kill(os.getpid(), number)
        return 1.0

    before = signal.getsignal(number)
    run, state = Fixture(tmp_path, number=knock), TrainerState()
    assert train(run.parts, state) == number
    assert state.step == 3
    assert run.saved == [3]
    assert signal.getsignal(number) is before


def test_a_second_interrupt_does_not_wait() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wanted
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # launchers repeat it
        stop.signal = signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_profiler_writes_a_trace_of_its_steps(tmp_path: Path) -> None:
    profiler = StepProfiler((1, 3), tmp_path / "profile", 0)
    run = Fixture(tmp_path, profiler=profiler)
    train(run.parts, TrainerState())
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "steps-1-3-rank-0.json"
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_resumed_guard_remembers(tmp_path: Path) -> None:
    state = TrainerState()
    train(Fixture(tmp_path, steps=3).parts, state)
    guard = LossGuard(factor=3.0, window=3, limit=1, losses=state.recent_losses)
    assert guard.judge(10.0) == "spike"
