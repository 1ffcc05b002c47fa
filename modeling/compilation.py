"""torch.compile of a decoder's layers, attention left out."""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from modeling.backbone import without_adapters
from modeling.tree_attention import TREE_ATTENTION, tree_attention


def compile_layers(model: nn.Module) -> None:
    """Compile the forward of every decoder layer, in place, for rows of any length.

    Attention follows the layout of each micro-batch, and would be compiled anew for every one, so
    it runs as it is; norms, projections, rotary embedding and the feed-forward are compiled. One
    compilation serves all layers of a process. Names of weights do not change.

    Args:
        model: a causal LM from `modeling.backbone`, with adapters or without.
    """
    eager: Any = torch.compiler.disable(tree_attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register(TREE_ATTENTION, eager)
    causal = without_adapters(model)
    layers = set(causal._no_split_modules or ())  # transformers' name for what a layer's class is
    for module in causal.modules():
        if type(module).__name__ in layers:
            module.forward = torch.compile(module.forward, dynamic=True)
