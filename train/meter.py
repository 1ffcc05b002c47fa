"""Adds up what steps did between two logged lines, and makes the line."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch

from train.objectives import Tally
from train.stream import StepBatches
from train.throughput import FlopCounter, peak_flops, peak_memory_mb
from train.tracking import Line


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """How evenly work came to the ranks: sums over steps."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of waiting for micro-batches to be assembled; mean over the ranks."""
    imbalance_seconds: float = 0.0
    """Seconds of each step times its imbalance."""
    imbalance_strided_seconds: float = 0.0
    """The same for the imbalance that strides would have had."""
    dropped_events: int = 0
    shortened_trees: int = 0
    users: int = 0
    """Different users of each step."""

    @classmethod
    def of(cls, taken: StepBatches, seconds: float, waited: float) -> Flow:
        """Of one step that took so many seconds."""
        return cls(
            steps=1,
            seconds=seconds,
            waited=waited,
            imbalance_seconds=seconds * taken.imbalance,
            imbalance_strided_seconds=seconds * taken.imbalance_strided,
            dropped_events=taken.dropped_events,
            shortened_trees=taken.shortened_trees,
            users=taken.users,
        )

    def __add__(self, other: Flow) -> Flow:
        """Both together."""
        names = Flow.__dataclass_fields__
        sums = (a + b for a, b in zip(astuple(self), astuple(other), strict=True))
        return Flow(**dict(zip(names, sums, strict=True)))

    def shares(self) -> Line:
        """Share of the time spent waiting for data; means of imbalance, by time, and of users."""
        seconds = self.seconds or 1.0
        return {
            "data_wait_share": self.waited / seconds,
            "imbalance": self.imbalance_seconds / seconds,
            "imbalance_strided": self.imbalance_strided_seconds / seconds,
            "users_per_step": self.users / max(1, self.steps),
        }

    def summary(self) -> Line:
        """The shares, and what trunks had no room for."""
        shortened = {"trees": self.shortened_trees, "events": self.dropped_events}
        return self.shares() | {"shortened_trunks": shortened}


class Meter:
    """Sums over steps; `line` reads them and starts again, `flow` is of all steps.

    Args:
        names: of the tasks, and of the supervised history: the tallies' columns of one corpus.
        device: where this process computes.
        counter: counts operations; None, as an unknown device, leaves MFU out.
        corpora: their names, where the tallies have columns of several.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        device: torch.device,
        counter: FlopCounter | None = None,
        *,
        corpora: tuple[str, ...] = ("",),
    ) -> None:
        self._names = names
        self._corpora = corpora
        self._device = device
        self._counter = counter
        self._peak = peak_flops(device)
        self.flow = Flow()
        self._reset()

    def _reset(self) -> None:
        self._tally = Tally.zero(len(self._corpora) * len(self._names))
        self._flops = 0.0
        self._lately = Flow()

    def add(
        self, tally: Tally, taken: StepBatches, seconds: float, waited: float, *, applied: bool
    ) -> None:
        """Count a step. One that was skipped took time and taught nothing.

        Args:
            tally: of all ranks.
            taken: by this rank; the others' micro-batches are taken to be as much work.
            seconds: from asking for the micro-batches to the end of the update.
            waited: of these, for micro-batches to be assembled; mean over the ranks.
            applied: whether the update was made.
        """
        flow = Flow.of(taken, seconds, waited)
        self.flow, self._lately = self.flow + flow, self._lately + flow
        if not applied:
            return
        self._tally += tally
        if self._counter is not None and self._peak is not None:
            self._flops += sum(map(self._counter.flops, taken.batches))

    def line(self, step: int, learning_rate: float, grad_norm: float, skipped: int) -> Line:
        """The line of metrics.jsonl for the steps since the last one."""
        tally, seconds = self._tally, self._lately.seconds
        targets, tokens = int(tally.total("targets")), int(tally.total("tokens"))
        line: Line = {
            "step": step,
            "loss": tally.loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "label_mass": tally.label_mass,
            "targets": targets,
            "tokens": tokens,
            "seconds": seconds,
            "targets_per_s": targets / seconds,
            "tokens_per_s": tokens / seconds,
            "padding_share": 0.0,  # micro-batches are packed flat
            "memory_mb": peak_memory_mb(self._device),
            "skipped_steps": skipped,
            **self._lately.shares(),
            "tasks": tally.per_task(self._names),
        }
        if len(self._corpora) > 1:
            line["corpora"] = tally.per_corpus(self._corpora, self._names)
        if self._counter is not None and self._peak is not None:
            line["mfu"] = self._flops / seconds / self._peak
        self._reset()
        return line


def evaluation_line(
    step: int, tally: Tally, names: tuple[str, ...], corpora: tuple[str, ...] = ("",)
) -> Line:
    """The line of metrics.jsonl for an evaluation after a step."""
    evaluation: Line = {
        "loss": tally.loss,
        "label_mass": tally.label_mass,
        "targets": int(tally.total("targets")),
        "tasks": tally.per_task(names),
    }
    if len(corpora) > 1:
        evaluation["corpora"] = tally.per_corpus(corpora, names)
    return {"step": step, "evaluation": evaluation}
