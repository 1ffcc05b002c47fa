"""Liger kernels on a GPU: fused RMSNorm, SwiGLU and rotary embedding.

Liger-Kernel (Hsu et al. 2024, arXiv 2410.10989; the extra `liger`) exchanges them in a model that
exists already. Its fused linear cross entropy is left out: it multiplies in the hidden states'
dtype, where scores need an fp32 head, and has neither weights of labels nor their choices;
`modeling.linear_cross_entropy` has all three and the same memory.
"""

from importlib.util import find_spec

import torch
from torch import nn

from modeling.backbone import without_adapters
from modeling.label_scores import label_logits
from modeling.tree_layout import TreeLayout

_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference that other orders of summation may make, as a part of the largest logit."""


def liger_installed() -> bool:
    """Whether the package is there; it is not imported, since it needs Triton."""
    return find_spec("liger_kernel") is not None


def use_liger_kernels(model: nn.Module) -> bool:
    """Exchange what Liger has kernels for, and compare the model's logits with those before.

    Args:
        model: a causal LM from `modeling.backbone` on a GPU, with adapters or without. Layers of
            the same architecture share one rotary embedding: all models of this process get it.

    Returns:
        False where Liger does not know the architecture, and nothing was exchanged.

    Raises:
        ValueError: the logits differ.
    """
    from liger_kernel.transformers import monkey_patch

    causal = without_adapters(model)
    if causal.config.model_type not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    before_MV = _some_logits(model)
    monkey_patch._apply_liger_kernel_to_instance(
        model=causal,
        rope=True,
        rms_norm=True,
        swiglu=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
    )
    after_MV = _some_logits(model)
    difference = float((after_MV - before_MV).abs().max() / before_MV.abs().max())
    limit = _LIMITS[next(model.parameters()).dtype]
    if not difference <= limit:
        raise ValueError(
            f"with Liger's kernels the logits of {type(causal).__name__} move by {difference:.2g} "
            f"of the largest one, more than {limit:g}: set use_liger_kernel=false, or install a "
            f"version of liger-kernel that fits this transformers"
        )
    return True


@torch.no_grad()
def _some_logits(model: nn.Module) -> torch.Tensor:
    """Logits of a small row of two branches behind a trunk, without dropout."""
    layout = TreeLayout((13,), ((5, 7),))
    device = next(model.parameters()).device
    tokens_T = torch.arange(layout.n_tokens, device=device)
    positions_T = layout.positions().to(device)
    was_training = model.training
    model.eval()
    logits_MV = label_logits(model, tokens_T, positions_T, layout, tokens_T)
    model.train(was_training)
    return logits_MV
