"""The output head: fp32 logits, or the losses of labels without their logits.

Legend: M labels, D hidden width, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.linear_cross_entropy import LabelLosses, Labels, linear_cross_entropy


class Fp32Head(nn.Linear):
    """An output head that computes in fp32 whatever the dtype of weights and hidden states.

    bf16 keeps 8 bits: it makes ties of candidates whose logits differ in the third digit. An
    existing head is turned into this class in place, so that names, tied weights, adapters and
    ZeRO-3's hooks stay as they are.

    Inside `answering` the forward gives a loss in the place of logits. It is the head's own forward
    that computes it, because only there are the weights whole under ZeRO-3.
    """

    _labels: Labels | None = None
    losses: LabelLosses | None = None
    """What the last forward inside `answering` came to."""
    changed_after = False
    """Whether the model was seen to change logits behind its head."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., V], fp32 (fp64 for an fp64 model), of hidden states [..., D].

        Inside `answering`: the loss of M labels, [1, 1, 1], of hidden states [1, M, D].
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.to(dtype)
            if self._labels is None:
                return F.linear(x.to(dtype), self.weight.to(dtype), bias)
            hidden_MD, weight_VD = x.flatten(0, -2).to(dtype), self.weight.to(dtype)
            self.losses = linear_cross_entropy(hidden_MD, weight_VD, bias, self._labels)
            return self.losses.loss.view(1, 1, 1)

    @contextmanager
    def answering(self, labels: Labels) -> Iterator[None]:
        """Let the forward give the labels' loss in the place of logits, inside the block."""
        self._labels, self.losses = labels, None
        try:
            yield
        finally:
            self._labels = self.losses = None


def use_fp32_head(model: PreTrainedModel) -> None:
    """Turn the model's output head into an `Fp32Head`, in place.

    Raises:
        ValueError: the head is no plain linear layer.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(head, Fp32Head):
        return
    if type(head) is not nn.Linear:
        raise ValueError(
            f"{type(model).__name__} has a {type(head).__name__} as its output head; scores need a "
            f"plain nn.Linear there: load it without quantizing the head"
        )
    head.__class__ = Fp32Head


def fp32_head(model: nn.Module) -> Fp32Head | None:
    """The model's head, whatever wraps the model; None where it has none of ours."""
    return next((module for module in model.modules() if isinstance(module, Fp32Head)), None)
