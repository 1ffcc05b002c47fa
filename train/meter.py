"""Adds up what steps did between two logged lines, and makes the line."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data_pipeline.packing import MicroBatch
from train.objectives import Tally
from train.throughput import FlopCounter, peak_flops, peak_memory_mb
from train.tracking import Line


class Meter:
    """Sums over steps; `line` reads them and starts again.

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
        self._reset()

    def _reset(self) -> None:
        self._tally = Tally.zero(len(self._corpora) * len(self._names))
        self._seconds = 0.0
        self._flops = 0.0

    def add(
        self, tally: Tally, batches: Sequence[MicroBatch], seconds: float, *, applied: bool = True
    ) -> None:
        """Count a step. One that was skipped took time and taught nothing.

        Args:
            tally: of all ranks.
            batches: of this rank; the others' are taken to be as much work.
            seconds: from asking for the micro-batches to the end of the update.
            applied: whether the update was made.
        """
        self._seconds += seconds
        if not applied:
            return
        self._tally += tally
        if self._counter is not None and self._peak is not None:
            self._flops += sum(map(self._counter.flops, batches))

    def line(self, step: int, learning_rate: float, grad_norm: float, skipped: int) -> Line:
        """The line of metrics.jsonl for the steps since the last one."""
        tally, seconds = self._tally, self._seconds
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
