"""A trunk read into `TrunkStates`, in passes of bounded size.

Legend: P tokens of the trunk.
"""

import torch

from modeling.label_scores import label_logits
from modeling.tree_layout import TreeLayout
from modeling.trunk_states import TrunkStates


@torch.no_grad()
def encode_trunk(
    model: torch.nn.Module,
    tokens_P: torch.Tensor,
    states: TrunkStates,
    *,
    length: int,
    max_tokens: int,
) -> None:
    """Let `states` hold the first `length` tokens of a trunk; what they hold is not read again.

    Args:
        model: a causal LM from `modeling.backbone`.
        tokens_P: int64 [P], on the model's device.
        states: hold the first tokens of this trunk already, or none; recording.
        length: at most P.
        max_tokens: tokens of one pass.
    """
    for held in range(states.length, length, max_tokens):
        end = min(held + max_tokens, length)
        layout = TreeLayout((end,), ((),), cached_lengths=(held,))
        last_1 = torch.tensor([end - held - 1], device=tokens_P.device)
        positions_T = layout.positions().to(tokens_P.device)
        label_logits(model, tokens_P[held:end], positions_T, layout, last_1, [states])
