"""Losses that make a student rank a slate as its teacher does.

Shapes: B moments, S items of a slate, K items of the teacher's top list.

Two objectives:

- `listwise_kl`: the student's distribution over the slate follows the teacher's.
- `dllm2rec_ranking`: importance-aware ranking distillation of DLLM2Rec (Cui et al., "Distillation
  Matters", RecSys 2024, arXiv 2405.00338, section 3.2).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

SMALLEST_WEIGHT = 1e-8
"""Keeps a confidence or consistency of zero from removing an item altogether, as the paper does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceWeights:
    """How much each of the three signs of a trustworthy teacher item counts."""

    position: float = 0.3
    """The item stands high in the teacher's list."""
    confidence: float = 0.5
    """The teacher is sure of the item."""
    consistency: float = 0.1
    """The student has the item among its own best as well."""
    decay: float = 1.0
    """Positions over which the position weight falls by a factor e."""

    def __post_init__(self) -> None:
        parts = (self.position, self.confidence, self.consistency)
        if min(parts) < 0 or sum(parts) <= 0:
            raise ValueError(
                f"importance weights position, confidence, consistency = {parts} must be "
                f"non-negative and not all zero"
            )
        if self.decay <= 0:
            raise ValueError(f"decay={self.decay} must be positive")


def listwise_kl(
    student_BS: torch.Tensor, teacher_BS: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Mean KL(teacher || student) of the two softmax distributions over each slate, scalar.

    Both sides are divided by `temperature`, and the result is multiplied by its square, so that the
    size of the gradient does not depend on it (Hinton et al., 2015, section 2).

    Args:
        student_BS: logits of the student.
        teacher_BS: log-likelihoods of the teacher, in the same order; constants for the gradient.
        temperature: positive; above 1 the order of unlikely items counts more.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    log_student_BS = F.log_softmax(student_BS / temperature, dim=-1)
    log_teacher_BS = F.log_softmax(teacher_BS.detach() / temperature, dim=-1)
    divergence = F.kl_div(log_student_BS, log_teacher_BS, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def importance_weights(
    distance_BK: torch.Tensor, in_student_top_BK: torch.Tensor, weights: ImportanceWeights
) -> torch.Tensor:
    """Weight of each item of the teacher's list, `[B, K]`, rows sum to 1.

    - position: `exp(-k / decay)` for k = 1..K, normalised;
    - confidence: `exp(-distance) + 1e-8`, normalised;
    - consistency: 1 for an item in the student's own top K, plus 1e-8, not normalised.

    Args:
        distance_BK: how far the teacher is from the item, >= 0: the paper's distance between the
            generated text and the item, or a negative log-likelihood.
        in_student_top_BK: bool, the item is in the student's top K at this moment.
        weights: the mixing factors.
    """
    K = distance_BK.shape[1]
    place_K = torch.arange(1, K + 1, device=distance_BK.device, dtype=distance_BK.dtype)
    position_K = torch.softmax(-place_K / weights.decay, dim=0)
    confidence_BK = torch.exp(-distance_BK) + SMALLEST_WEIGHT
    confidence_BK = confidence_BK / confidence_BK.sum(1, keepdim=True)
    consistency_BK = in_student_top_BK.to(distance_BK.dtype) + SMALLEST_WEIGHT
    mixed_BK = (
        weights.position * position_K
        + weights.confidence * confidence_BK
        + weights.consistency * consistency_BK
    )
    return mixed_BK / mixed_BK.sum(1, keepdim=True)


def dllm2rec_ranking(
    top_scores_BK: torch.Tensor,
    negative_scores_B: torch.Tensor,
    weights_BK: torch.Tensor,
) -> torch.Tensor:
    """Weighted binary cross-entropy of the teacher's list against a negative, scalar.

    `mean_b sum_k w_bk (-log sigmoid(s_bk) - log(1 - sigmoid(s_b,neg)))`. The negative term is the
    paper's; the code its authors released has `log sigmoid(1 - s)` there, another function.

    Args:
        top_scores_BK: logits of the student for the teacher's list.
        negative_scores_B: logits of the student for one item outside history, list and target.
        weights_BK: from `importance_weights`; constants for the gradient.
    """
    positive_BK = F.softplus(-top_scores_BK)  # -log sigmoid(s)
    negative_B1 = F.softplus(negative_scores_B)[:, None]  # -log(1 - sigmoid(s))
    return (weights_BK.detach() * (positive_BK + negative_B1)).sum(1).mean()
