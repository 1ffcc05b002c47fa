"""Cross entropy at label positions, over the whole vocabulary or over the label tokens only.

Shapes: T tokens of the micro-batch, M label positions, V vocabulary, B branches, C most choices of
any branch, K columns: the tasks of each corpus, and each corpus's supervised history.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipeline.packing import MicroBatch
from modeling.scoring import label_logits
from modeling.tree_attention import TreeLayout
from train.objectives.base import ROWS, ObjectiveOutput

_CHUNK_ELEMENTS = 2**24
"""Logits worked on at a time beside the logits themselves: 64 MiB of fp32."""


class LabelObjective:
    """Weighted sum of the cross entropies of all labels of a micro-batch.

    Args:
        n_tasks: tasks of the mixture.
        n_corpora: corpora of the mixture.
        label_loss: `full_vocabulary` also teaches the model to answer with a label at all;
            `label_tokens` normalises over the choices of the question, where it has some.
    """

    def __init__(
        self,
        n_tasks: int,
        *,
        n_corpora: int = 1,
        label_loss: Literal["full_vocabulary", "label_tokens"] = "full_vocabulary",
    ) -> None:
        self.n_columns = n_corpora * (n_tasks + 1)
        self.restricted = label_loss == "label_tokens"

    def weight(self, batch: MicroBatch) -> float:
        """Sum of the label weights."""
        return float(batch.label_weights_M.sum(dtype=np.float64))

    def __call__(self, model: nn.Module, batch: MicroBatch) -> ObjectiveOutput:
        """Run the model on a micro-batch and compare its labels."""
        device = next(model.parameters()).device
        logits_MV = logits_at_labels(model, batch, device)
        choices_MC = torch.from_numpy(choices_of_labels(batch)).to(device)
        loss, losses_M, mass_M, right_M = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
            logits_MV,
            torch.from_numpy(batch.label_tokens_M).to(device),
            torch.from_numpy(batch.label_weights_M).to(device, logits_MV.dtype),
            choices_MC,
            self.restricted,
        )
        weights_M = torch.from_numpy(batch.label_weights_M).to(device)
        asked_M = (choices_MC >= 0).any(1)
        rows = {
            "loss": weights_M * losses_M,
            "weight": weights_M,
            "mass": mass_M,
            "correct": right_M,
            "answered": asked_M,
        }
        sums = torch.zeros(len(ROWS), self.n_columns, dtype=torch.float64, device=device)
        columns_M = torch.from_numpy(batch.label_columns_M).to(device)
        for name, values_M in rows.items():
            sums[ROWS.index(name)].index_add_(0, columns_M, values_M.double())
        sums[ROWS.index("targets")] = torch.from_numpy(batch.targets_K).to(sums)
        sums[ROWS.index("tokens")] = torch.from_numpy(batch.tokens_K).to(sums)
        return ObjectiveOutput(loss, sums)


def logits_at_labels(model: nn.Module, batch: MicroBatch, device: torch.device) -> Tensor:
    """Logits [M, V] of the labels of a micro-batch, in the head's fp32."""
    return _logits_at(model, batch, batch.label_positions_M, device)


def logits_at_branches(model: nn.Module, batch: MicroBatch, device: torch.device) -> Tensor:
    """Logits [B, V] of each branch's first label, in the head's fp32."""
    return _logits_at(model, batch, batch.branch_label_positions_B, device)


def _logits_at(
    model: nn.Module, batch: MicroBatch, positions: NDArray[np.int64], device: torch.device
) -> Tensor:
    layout = TreeLayout.from_arrays(batch.trunk_lengths, batch.branch_counts, batch.branch_lengths)
    return label_logits(
        model,
        torch.from_numpy(batch.tokens_T).to(device),
        torch.from_numpy(batch.positions_T).to(device),
        layout,
        torch.from_numpy(positions).to(device),
    )


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


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of cross entropies whose forward leaves nothing behind but its gradient.

    Autograd would keep the log-softmax, and then build the gradient beside it: three copies of
    [M, V] in fp32, where the vocabulary is by far the longest dimension. Here a chunk of rows at
    a time becomes its gradient, so there are two.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_MV: Tensor,
        labels_M: Tensor,
        weights_M: Tensor,
        choices_MC: Tensor,
        restricted: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the sum, and per label: loss, mass on its choices, whether the best is right."""
        wants_gradient = ctx.needs_input_grad[0]
        grad_MV = torch.empty_like(logits_MV) if wants_gradient else None
        losses_M, mass_M = torch.empty_like(weights_M), torch.zeros_like(weights_M)
        right_M = torch.zeros_like(weights_M)
        rows = max(1, _CHUNK_ELEMENTS // logits_MV.shape[1])
        for start in range(0, len(logits_MV), rows):
            part = slice(start, start + rows)
            logits, labels, choices = logits_MV[part], labels_M[part], choices_MC[part]
            offered = choices >= 0
            scores = logits.gather(1, choices.clamp(min=0)).masked_fill(~offered, -torch.inf)
            mass_M[part] = (scores.logsumexp(1) - logits.logsumexp(1)).exp()
            best = choices.gather(1, scores.argmax(1, keepdim=True)).squeeze(1)
            right_M[part] = (best == labels).to(right_M)
            if restricted:
                logits = logits.masked_fill(_forbidden(choices, offered, logits), -torch.inf)
            log_probabilities = F.log_softmax(logits, dim=1)
            losses_M[part] = -log_probabilities.gather(1, labels[:, None]).squeeze(1)
            if grad_MV is not None:
                gradient = torch.exp(log_probabilities, out=grad_MV[part])
                gradient[torch.arange(len(labels), device=labels.device), labels] -= 1.0
                gradient.mul_(weights_M[part, None])
        if grad_MV is not None:
            ctx.save_for_backward(grad_MV)
        ctx.mark_non_differentiable(losses_M, mass_M, right_M)
        return (weights_M * losses_M).sum(), losses_M, mass_M, right_M

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient that the forward left, in place: a graph is walked once."""
        (grad_MV,) = ctx.saved_tensors
        return grad_MV.mul_(grad_outputs[0]), None, None, None, None


def _forbidden(choices: Tensor, offered: Tensor, logits: Tensor) -> Tensor:
    """Tokens that are no choice of a label that has choices; nothing where it has none."""
    forbidden = offered.any(1, keepdim=True).expand(logits.shape).clone()
    row = torch.arange(len(choices), device=choices.device)[:, None].expand_as(choices)
    forbidden[row[offered], choices[offered]] = False
    return forbidden
