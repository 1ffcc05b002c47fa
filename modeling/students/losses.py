"""Losses of the next item: over the whole catalog, and against sampled negatives.

Shapes: B windows, L positions, D width, N items, M supervised positions, R negatives of each.

Targets `[B, L]` stand where the input's next item is; `padding_item` marks positions without one.
"""

import torch
import torch.nn.functional as F

from modeling.students.base import Student


def cross_entropy(
    student: Student, inputs_BL: torch.Tensor, targets_BL: torch.Tensor
) -> torch.Tensor:
    """Mean over the targets of -log softmax over all items."""
    wanted_BL = targets_BL != student.padding_item
    state_MD = student(inputs_BL)[wanted_BL]
    # The same as F.cross_entropy, whose backward fills the whole [M, N] twice more.
    of_target_M = (state_MD * student.items(targets_BL[wanted_BL])).sum(-1)
    loss: torch.Tensor = (state_MD @ student.output_vectors().T).logsumexp(-1) - of_target_M
    return loss.mean()


def binary_cross_entropy(
    student: Student,
    inputs_BL: torch.Tensor,
    targets_BL: torch.Tensor,
    negatives_MR: torch.Tensor,
) -> torch.Tensor:
    """Each target is a yes, each of its sampled negatives a no.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, equation 7. A
    negative that is an item of the same window is none and is left out.
    """
    wanted_BL = targets_BL != student.padding_item
    state_MD = student(inputs_BL)[wanted_BL]
    positive_M = (state_MD * student.items(targets_BL[wanted_BL])).sum(-1)
    against_MR = torch.einsum("md,mrd->mr", state_MD, student.items(negatives_MR))
    window_ML = targets_BL[wanted_BL.nonzero()[:, 0]]
    valid_MR = (negatives_MR[:, :, None] != window_ML[:, None, :]).all(-1)
    negative_loss = (F.softplus(against_MR) * valid_MR).sum() / valid_MR.sum().clamp(min=1)
    return F.softplus(-positive_M).mean() + negative_loss
