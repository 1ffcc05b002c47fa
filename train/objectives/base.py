"""What every objective gives back, and how it is summed over micro-batches and ranks.

Shape: K columns: the tasks of each corpus in turn, and behind a corpus's last task its supervised
history.
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
those with given choices; tokens of branches (those of trunks are in the column of the supervised
history)."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums per corpus and task that add up over micro-batches, ranks and steps.

    Shape [len(ROWS), K].
    """

    sums: NDArray[np.float64]

    @classmethod
    def zero(cls, n_columns: int) -> Tally:
        """A tally of nothing."""
        return cls(np.zeros((len(ROWS), n_columns)))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sums + other.sums)

    def row(self, name: str) -> NDArray[np.float64]:
        """One kind of sum, per column."""
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
        """Loss, weight, targets and, where choices are given, accuracy of each task seen.

        The losses, each times its weight, add up to the whole loss times the whole weight.

        Args:
            names: of the tasks, and of the supervised history.
        """
        return _rows(self._by_corpus(names).sum(1), names)

    def per_corpus(
        self, corpora: tuple[str, ...], names: tuple[str, ...]
    ) -> dict[str, dict[str, dict[str, float | int]]]:
        """The same for each corpus."""
        parts = self._by_corpus(names)
        assert parts.shape[1] == len(corpora), "a tally has the columns of every corpus"
        return {corpus: _rows(parts[:, i], names) for i, corpus in enumerate(corpora)}

    def _by_corpus(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Shape [len(ROWS), corpora, len(names)]."""
        return self.sums.reshape(len(ROWS), -1, len(names))


def _rows(sums: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, dict[str, float | int]]:
    tasks: dict[str, dict[str, float | int]] = {}
    for column in np.flatnonzero(sums[ROWS.index("targets")]):
        values = dict(zip(ROWS, sums[:, column].tolist(), strict=True))
        task: dict[str, float | int] = {"targets": int(values["targets"])}
        if values["weight"]:
            task["loss"] = values["loss"] / values["weight"]
            task["weight"] = values["weight"]
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
