"""Cross entropy at label positions, over the whole vocabulary or over the label tokens only.

Shapes: T tokens of the micro-batch, M label positions, V vocabulary, B branches, C most choices of
any branch, K columns: the tasks of each corpus, and each corpus's supervised history.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipeline.packing import MicroBatch
from modeling.forgetting import forgetting, linear_rates
from modeling.label_losses import label_losses
from modeling.label_scores import label_logits
from modeling.linear_cross_entropy import Labels
from modeling.tree_layout import TreeLayout
from train.batch_layout import layout_of
from train.objectives.base import ROWS, ObjectiveOutput


class LabelObjective:
    """Weighted sum of the cross entropies of all labels of a micro-batch.

    Args:
        n_tasks: tasks of the mixture.
        n_corpora: corpora of the mixture.
        label_loss: `full_vocabulary` also teaches the model to answer with a label at all;
            `label_tokens` normalises over the choices of the question, where it has some.
        window_forgetting: strength of `modeling.forgetting` in trees whose history has a window,
            while the model trains.
    """

    def __init__(
        self,
        n_tasks: int,
        *,
        n_corpora: int = 1,
        label_loss: Literal["full_vocabulary", "label_tokens"] = "full_vocabulary",
        window_forgetting: float = 0.0,
    ) -> None:
        self.n_columns = n_corpora * (n_tasks + 1)
        self._forgetting = window_forgetting
        self.restricted = label_loss == "label_tokens"

    def weight(self, batch: MicroBatch) -> float:
        """Sum of the label weights."""
        return float(batch.label_weights_M.sum(dtype=np.float64))

    def __call__(self, model: nn.Module, batch: MicroBatch) -> ObjectiveOutput:
        """Run the model on a micro-batch and compare its labels."""
        device = next(model.parameters()).device
        labels = Labels(
            torch.from_numpy(batch.label_tokens_M).to(device, non_blocking=True),
            torch.from_numpy(batch.label_weights_M).to(device, non_blocking=True),
            torch.from_numpy(choices_of_labels(batch)).to(device),
            over_choices=self.restricted,
        )
        row = _row(batch, batch.label_positions_M, device)
        with self._forget(model, row[2]):
            losses = label_losses(model, *row, labels)
        asked_M = (labels.choices_MC >= 0).any(1)
        rows = {
            "loss": labels.weights_M * losses.losses_M,
            "weight": labels.weights_M,
            "mass": _estimated(losses.mass_M, asked_M),
            "correct": losses.correct_M,
            "answered": asked_M,
        }
        sums = torch.zeros(len(ROWS), self.n_columns, dtype=torch.float64, device=device)
        columns_M = torch.from_numpy(batch.label_columns_M).to(device, non_blocking=True)
        for name, values_M in rows.items():
            sums[ROWS.index(name)].index_add_(0, columns_M, values_M.double())
        sums[ROWS.index("targets")] = torch.from_numpy(batch.targets_K).to(sums)
        sums[ROWS.index("tokens")] = torch.from_numpy(batch.tokens_K).to(sums)
        return ObjectiveOutput(losses.loss, sums)

    def _forget(self, model: nn.Module, layout: TreeLayout) -> AbstractContextManager[None]:
        if not (self._forgetting and layout.windows and model.training):
            return nullcontext()
        return forgetting(model, linear_rates(layout, self._forgetting))


def logits_at_labels(model: nn.Module, batch: MicroBatch, device: torch.device) -> Tensor:
    """Logits [M, V] of the labels of a micro-batch, in the head's fp32."""
    return label_logits(model, *_row(batch, batch.label_positions_M, device))


def logits_at_branches(model: nn.Module, batch: MicroBatch, device: torch.device) -> Tensor:
    """Logits [B, V] of each branch's first label, in the head's fp32."""
    return label_logits(model, *_row(batch, batch.branch_label_positions_B, device))


def _row(
    batch: MicroBatch, positions: NDArray[np.int64], device: torch.device
) -> tuple[Tensor, Tensor, TreeLayout, Tensor]:
    """Tokens and their positions, where the trees lie, and where to look."""
    return (
        torch.from_numpy(batch.tokens_T).to(device, non_blocking=True),
        torch.from_numpy(batch.positions_T).to(device, non_blocking=True),
        layout_of(batch),
        torch.from_numpy(positions).to(device),
    )


def _estimated(mass_M: Tensor, asked_M: Tensor) -> Tensor:
    """A question whose label mass was not measured counts as the mean of those that were."""
    mean = mass_M.masked_fill(~asked_M, torch.nan).nanmean()
    return torch.where(mass_M.isnan(), mean, mass_M)


def choices_of_labels(batch: MicroBatch) -> NDArray[np.int64]:
    """Token ids of the possible answers at each label, -1 behind the last; shape [M, C].

    Only the first label of a branch that offers choices has any.
    """
    counts_B = np.diff(batch.choice_offsets)
    choices_MC = np.full((len(batch.label_positions_M), counts_B.max(initial=1)), -1, np.int64)
    order = np.argsort(batch.label_positions_M, kind="stable")
    sorted_positions = batch.label_positions_M[order]
    label_B = order[np.searchsorted(sorted_positions, batch.branch_label_positions_B)]
    branch = np.repeat(np.arange(len(counts_B)), counts_B)
    column = np.arange(len(branch)) - batch.choice_offsets[branch]
    choices_MC[label_B[branch], column] = batch.choice_tokens
    return choices_MC
