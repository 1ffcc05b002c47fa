"""What every objective gives back, and how it is summed over micro-batches and ranks.

Shape: K columns, one per task and the supervised history last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data_pipeline.packing import MicroBatch

ROWS = ("loss", "weight", "targets", "mass", "correct", "answered", "tokens")
"""Sums of a tally: weighted loss; weight; targets; label mass, right answers and questions among
those with given choices; tokens read (in the last column)."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums per task that add up over micro-batches, ranks and steps; shape [len(ROWS), K]."""

    sums: NDArray[np.float64]

    @classmethod
    def zero(cls, n_columns: int) -> Tally:
        """A tally of nothing."""
        return cls(np.zeros((len(ROWS), n_columns)))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sums + other.sums)

    def row(self, name: str) -> NDArray[np.float64]:
        """One kind of sum, per task."""
        values: NDArray[np.float64] = self.sums[ROWS.index(name)]
        return values

    def total(self, name: str) -> float:
        """One kind of sum over all tasks."""
        return float(self.row(name).sum())

    @property
    def loss(self) -> float:
        """Weighted mean loss over all targets; NaN where there were none."""
        return self.total("loss") / self.total("weight") if self.total("weight") else float("nan")

    @property
    def label_mass(self) -> float:
        """Mean probability on the given choices, of questions that have some."""
        answered = self.total("answered")
        return self.total("mass") / answered if answered else float("nan")

    def per_task(self, names: tuple[str, ...]) -> dict[str, dict[str, float | int]]:
        """Loss, number of targets and, where choices are given, accuracy of each task seen."""
        tasks: dict[str, dict[str, float | int]] = {}
        for column in np.flatnonzero(self.row("targets")):
            values = dict(zip(ROWS, self.sums[:, column].tolist(), strict=True))
            task: dict[str, float | int] = {"targets": int(values["targets"])}
            if values["weight"]:
                task["loss"] = values["loss"] / values["weight"]
            if values["answered"]:
                task["accuracy"] = values["correct"] / values["answered"]
            tasks[names[column]] = task
        return tasks


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """A micro-batch through an objective."""

    loss: torch.Tensor
    """Sum over labels of weight times loss: a scalar that can be differentiated."""
    sums: torch.Tensor
    """The tally of this micro-batch, float64 on the model's device; shape [len(ROWS), K]."""


class Objective(Protocol):
    """Anything that can be minimised. One file in this folder each, one line in `train/run.py`."""

    n_columns: int

    def __call__(self, model: nn.Module, batch: MicroBatch) -> ObjectiveOutput:
        """Run the model on a micro-batch."""
        ...

    def weight(self, batch: MicroBatch) -> float:
        """The micro-batch's share of the global step's weight, known before any forward."""
        ...
