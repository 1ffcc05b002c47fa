"""Losses at label positions of a micro-batch, without the labels' logits where the head allows it.

Legend: T tokens of the row, M label positions.
"""

import logging

from torch import Tensor, nn

from modeling.head import Fp32Head, fp32_head
from modeling.label_scores import at_labels, label_logits
from modeling.linear_cross_entropy import LabelLosses, Labels, cross_entropy_of_logits
from modeling.tree_layout import TreeLayout

log = logging.getLogger(__name__)


def label_losses(
    model: nn.Module,
    tokens_T: Tensor,
    positions_T: Tensor,
    layout: TreeLayout,
    label_positions_M: Tensor,
    labels: Labels,
) -> LabelLosses:
    """Cross entropies of the next token at the label positions of one micro-batch.

    Args:
        model: a causal LM from `modeling.backbone`, or what trains it.
        tokens_T: int64 [T].
        positions_T: int64 [T], as `layout.positions()` gives them.
        layout: where the trees of the row lie.
        label_positions_M: int64 [M], indices into T.
        labels: what stands behind them.

    Raises:
        ValueError: the model does not hand the layout to its attention layers, or its head is not
            computed in fp32.
    """
    row = (model, tokens_T, positions_T, layout, label_positions_M)
    head = fp32_head(model)
    if head is not None and not head.changed_after:
        losses = _fused(head, *row, labels)
        if losses is not None:
            return losses
        head.changed_after = True
        log.warning(
            "%s changes what its head gives (a scale, a cap, an adapter): the logits of all labels "
            "are held at once from here on",
            type(model).__name__,
        )
    return cross_entropy_of_logits(label_logits(*row), labels)


def _fused(
    head: Fp32Head,
    model: nn.Module,
    tokens_T: Tensor,
    positions_T: Tensor,
    layout: TreeLayout,
    label_positions_M: Tensor,
    labels: Labels,
) -> LabelLosses | None:
    """The head's own losses; None where the model did something to them on the way out."""
    with head.answering(labels):
        given = at_labels(model, tokens_T, positions_T, layout, label_positions_M)
        losses = head.losses
    assert losses is not None, "a causal LM runs its head"
    # ZeRO-3 hands on a view, a scale or a cap makes another tensor.
    if given.data_ptr() != losses.loss.data_ptr():
        return None
    return losses._replace(loss=given.view(()))
