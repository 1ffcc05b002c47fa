"""Fused linear cross entropy: the loss of a head, and its gradients, without the head's logits.

The logits of all labels together, [M, V], would be the largest tensor of a training step, and
autograd keeps three of them. Here a chunk of rows at a time goes through the head, becomes its loss
and then, in place, its gradient, which is multiplied out at once: memory is `CHUNK_ROWS` x V and
the gradients themselves. The gradients are made in the forward, as the backward of a head follows
at once: recomputing logits there would cost a third more and save nothing.
(The idea: Liger-Kernel, Hsu et al. 2024, arXiv 2410.10989; here with weights, choices and fp32.)

Legend: M labels, R rows of a chunk, D hidden width, V vocabulary, U tokens that are scored, C most
choices of any label.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ROWS = 128
"""Labels that go through the head at once. Measured at V = 49152, D = 576 on a CPU: 64 rows take a
tenth longer, since the head's weights and their gradient are read too often; 512 gain nothing."""

MASS_STRIDE = 8
"""Training over choices alone measures the label mass of every eighth question: the softmax's
denominator takes the whole head, which is what such training saves."""


@dataclass(frozen=True)
class Labels:
    """What the head is asked: right tokens, their weights, and what else could be answered."""

    tokens_M: Tensor
    """int64 [M]."""
    weights_M: Tensor
    """Weight of each label's loss in the sum; [M]."""
    choices_MC: Tensor
    """int64 [M, C]: the question's possible answers, the right one among them, then -1. A row of -1
    alone is a label without choices: a title, a text."""
    over_choices: bool = False
    """Normalise over the choices of a label that has some, instead of over the vocabulary."""


class LabelLosses(NamedTuple):
    """What the labels came to; only `loss` can be differentiated."""

    loss: Tensor
    """Sum of weight times loss; a scalar."""
    losses_M: Tensor
    """Cross entropy of each label."""
    mass_M: Tensor
    """Probability of a label's choices together among the vocabulary. 0 without choices, NaN where
    it was not measured."""
    correct_M: Tensor
    """1.0 where the likeliest of the choices is right, else 0.0."""


def linear_cross_entropy(
    hidden_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels: Labels
) -> LabelLosses:
    """Weighted cross entropies of `softmax(hidden @ weight.T + bias)` at the labels.

    Args:
        hidden_MD: hidden states, of the dtype to compute in.
        weight_VD: the head, of the same dtype.
        bias_V: of the head, if it has one.
        labels: M of them.

    Raises:
        ValueError: as many hidden states as labels are needed.
    """
    if len(hidden_MD) != len(labels.tokens_M):
        raise ValueError(
            f"got {len(hidden_MD)} hidden states for {len(labels.tokens_M)} labels: the model must "
            f"follow `logits_to_keep`, which gathers the label positions before its head"
        )
    wanted = tuple(
        torch.is_grad_enabled() and tensor is not None and tensor.requires_grad
        for tensor in (hidden_MD, weight_VD, bias_V)
    )
    values = _LinearCrossEntropy.apply(hidden_MD, weight_VD, bias_V, labels, wanted)  # type: ignore[no-untyped-call]
    return LabelLosses(*values)


def cross_entropy_of_logits(logits_MV: Tensor, labels: Labels) -> LabelLosses:
    """The same of logits that exist already: plain operations, several times their memory."""
    choices_MC, weights_M = labels.choices_MC, labels.weights_M.to(logits_MV.dtype)
    scores_MC, total_M = _scores(logits_MV, choices_MC), logits_MV.logsumexp(1)
    over_M = total_M
    if labels.over_choices:
        asked_M = (choices_MC >= 0).any(1)
        # Not -inf alone in any row, whose gradient would not be finite.
        of_choices_M = scores_MC.masked_fill(~asked_M[:, None], 0.0).logsumexp(1)
        over_M = torch.where(asked_M, of_choices_M, total_M)
    losses_M = over_M - logits_MV.gather(1, labels.tokens_M[:, None]).squeeze(1)
    with torch.no_grad():
        mass_M = (scores_MC.logsumexp(1) - total_M).exp()
        correct_M = _correct(scores_MC, choices_MC, labels.tokens_M)
    return LabelLosses((weights_M * losses_M).sum(), losses_M.detach(), mass_M, correct_M)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels: Labels,
        wanted: tuple[bool, ...],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the sum, and per label: loss, mass on its choices, whether the best is right."""
        work = _Work(hidden_MD, weight_VD, bias_V, labels, wanted)
        asked_M = (labels.choices_MC >= 0).any(1)
        over_choices_M = asked_M if labels.over_choices else torch.zeros_like(asked_M)
        for rows_R in _chunks((~over_choices_M).nonzero()[:, 0]):
            work.over_vocabulary(rows_R)
        asked = over_choices_M.nonzero()[:, 0]
        for rows_R in _chunks(asked):
            work.over_choices(rows_R)
        stride = MASS_STRIDE if any(wanted) else 1
        for rows_R in _chunks(asked[::stride]):
            work.measure_mass(rows_R)
        ctx.save_for_backward(*work.gradients)
        ctx.mark_non_differentiable(work.losses_M, work.mass_M, work.correct_M)
        loss = (work.weights_M * work.losses_M).sum()
        return loss, work.losses_M, work.mass_M, work.correct_M

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that the forward left, in place: a graph is walked once."""
        gradients = [
            None if gradient is None else gradient.mul_(grad_outputs[0])
            for gradient in ctx.saved_tensors
        ]
        return *gradients, None, None


class _Work:
    """Results and gradients of one call while chunks of rows fill them."""

    def __init__(
        self,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels: Labels,
        wanted: tuple[bool, ...],
    ) -> None:
        self.hidden_MD, self.weight_VD, self.bias_V = hidden_MD, weight_VD, bias_V
        self.labels = labels
        self.weights_M = labels.weights_M.to(hidden_MD.dtype)
        self.losses_M, self.correct_M = hidden_MD.new_zeros(2, len(hidden_MD)).unbind()
        asked_M = (labels.choices_MC >= 0).any(1)
        self.mass_M = torch.zeros_like(self.losses_M).masked_fill_(asked_M, torch.nan)
        self.gradients = [
            torch.zeros_like(tensor) if tensor is not None and want else None
            for tensor, want in zip((hidden_MD, weight_VD, bias_V), wanted, strict=True)
        ]

    def over_vocabulary(self, rows_R: Tensor) -> None:
        """Rows whose softmax is over all tokens."""
        logits_RV = self._logits(rows_R, None)
        scores_RC = self._note_best(rows_R, logits_RV, self.labels.choices_MC[rows_R])
        total_R = self._finish(rows_R, logits_RV, self.labels.tokens_M[rows_R], None)
        self.mass_M[rows_R] = (scores_RC.logsumexp(1) - total_R).exp()

    def over_choices(self, rows_R: Tensor) -> None:
        """Rows whose softmax is over their choices: the head of these rows' choices alone."""
        choices_RC, tokens_R = self.labels.choices_MC[rows_R], self.labels.tokens_M[rows_R]
        offered_RC = choices_RC >= 0
        tokens_U = torch.unique(torch.cat([choices_RC[offered_RC], tokens_R]))
        columns_RC = torch.searchsorted(tokens_U, choices_RC).masked_fill_(~offered_RC, -1)
        logits_RU = self._logits(rows_R, tokens_U)
        self._note_best(rows_R, logits_RU, columns_RC)
        allowed_RU = torch.zeros_like(logits_RU, dtype=torch.int32)
        allowed_RU.scatter_add_(1, columns_RC.clamp(min=0), offered_RC.int())
        logits_RU.masked_fill_(allowed_RU == 0, -torch.inf)
        self._finish(rows_R, logits_RU, torch.searchsorted(tokens_U, tokens_R), tokens_U)

    def measure_mass(self, rows_R: Tensor) -> None:
        """Rows that have their loss already, through the whole head."""
        logits_RV = self._logits(rows_R, None)
        scores_RC = _scores(logits_RV, self.labels.choices_MC[rows_R])
        self.mass_M[rows_R] = (scores_RC.logsumexp(1) - logits_RV.logsumexp(1)).exp()

    def _logits(self, rows_R: Tensor, tokens_U: Tensor | None) -> Tensor:
        logits_RU = self.hidden_MD[rows_R] @ _rows_of(self.weight_VD, tokens_U).t()
        if self.bias_V is not None:
            logits_RU += _rows_of(self.bias_V, tokens_U)
        return logits_RU

    def _note_best(self, rows_R: Tensor, logits_RU: Tensor, columns_RC: Tensor) -> Tensor:
        """Note whether the likeliest choice is right; return the choices' logits."""
        scores_RC = _scores(logits_RU, columns_RC)
        choices_RC, tokens_R = self.labels.choices_MC[rows_R], self.labels.tokens_M[rows_R]
        self.correct_M[rows_R] = _correct(scores_RC, choices_RC, tokens_R)
        return scores_RC

    def _finish(
        self, rows_R: Tensor, logits_RU: Tensor, columns_R: Tensor, tokens_U: Tensor | None
    ) -> Tensor:
        """Note losses and gradients, return the logarithms of the softmax's denominators.

        The logits are consumed: they become probabilities, then their own gradient.
        """
        picked_R1 = logits_RU.gather(1, columns_R[:, None])
        peak_R1 = logits_RU.amax(1, keepdim=True)
        sum_R1 = logits_RU.sub_(peak_R1).exp_().sum(1, keepdim=True)
        total_R1 = sum_R1.log() + peak_R1
        self.losses_M[rows_R] = (total_R1 - picked_R1).squeeze(1)
        if any(gradient is not None for gradient in self.gradients):
            weights_R1 = self.weights_M[rows_R, None]
            logits_RU.mul_(weights_R1 / sum_R1).scatter_add_(1, columns_R[:, None], -weights_R1)
            self._add_gradients(rows_R, logits_RU, tokens_U)
        return total_R1.squeeze(1)

    def _add_gradients(self, rows_R: Tensor, grad_RU: Tensor, tokens_U: Tensor | None) -> None:
        grad_hidden_MD, grad_weight_VD, grad_bias_V = self.gradients
        if grad_hidden_MD is not None:
            grad_hidden_MD[rows_R] = grad_RU @ _rows_of(self.weight_VD, tokens_U)
        if grad_weight_VD is not None and tokens_U is None:
            grad_weight_VD.addmm_(grad_RU.t(), self.hidden_MD[rows_R])
        elif grad_weight_VD is not None:
            grad_weight_VD[tokens_U] += grad_RU.t() @ self.hidden_MD[rows_R]
        if grad_bias_V is not None:
            grad_bias_V[slice(None) if tokens_U is None else tokens_U] += grad_RU.sum(0)


def _chunks(rows_N: Tensor) -> list[Tensor]:
    return [rows_R for rows_R in torch.split(rows_N, CHUNK_ROWS) if len(rows_R)]


def _rows_of(tensor: Tensor, tokens_U: Tensor | None) -> Tensor:
    return tensor if tokens_U is None else tensor[tokens_U]


def _scores(logits_RU: Tensor, columns_RC: Tensor) -> Tensor:
    """The logits of the choices, -inf where a row has no more; the columns there are -1."""
    scores_RC = logits_RU.gather(1, columns_RC.clamp(min=0))
    return scores_RC.masked_fill_(columns_RC < 0, -torch.inf)


def _correct(scores_MC: Tensor, choices_MC: Tensor, tokens_M: Tensor) -> Tensor:
    """1.0 where the likeliest choice is the label; a label without choices is never right."""
    best_M = choices_MC.gather(1, scores_MC.argmax(1, keepdim=True)).squeeze(1)
    return (best_M == tokens_M).to(scores_MC.dtype)
