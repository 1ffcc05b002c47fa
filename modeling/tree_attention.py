"""Attention over trees packed flat into one row: encode a trunk once, ask many branches.

A branch token sees its trunk and the earlier tokens of its own branch, nothing else, and its
positions restart where it is attached. So every branch gets exactly what it would get alone behind
a copy of its trunk (numerically too: the same sums, only in other shapes). The mask of such a row
is T x T and almost empty, so it is never built; `modeling.tree_kernels` has the ways to do without.

`register()` gives transformers two attention implementations: `brewhouse_tree` (the best kernel
that the device has) and `brewhouse_dense` (the T x T mask: slow, obvious, for comparison). Keywords
of the model's forward reach them: `tree_layout`, without which both are plain causal attention, and
`trunk_states`, where the layout says that parts of trunks are cached.

Legend: T tokens of the row, P trunk length, H heads, D width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from modeling.tree_kernels.flex import flex_attention, flex_serves
from modeling.tree_kernels.merge import merge_attention
from modeling.tree_kernels.varlen import varlen_attention, varlen_serves
from modeling.tree_layout import TreeLayout
from modeling.trunk_states import KeyValue, TrunkStates

TREE_ATTENTION = "brewhouse_tree"
DENSE_ATTENTION = "brewhouse_dense"

# Keywords by which an architecture asks for another formula than softmax(QK'/s)V.
_OTHER_FORMULAS = ("softcap", "s_aux", "position_bias", "head_mask")


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Exact attention over a row of trees, as transformers' attention interface calls it.

    Args:
        module: the attention layer.
        query: [1, H, T, D].
        key: [1, H_kv, T, D]; H is a multiple of H_kv (grouped-query attention).
        value: like key.
        attention_mask: None when a layout is given: a micro-batch has no padding.
        **kwargs: of these, `tree_layout: TreeLayout | None`, `trunk_states` (for each tree
            `TrunkStates | None`), `scaling`, `dropout` and `sliding_window` are understood.

    Returns:
        [1, T, H, D] and None (attention weights are not kept).

    Raises:
        ValueError: the layer asks for something that is not exact or not supported here.
    """
    layout: TreeLayout | None = kwargs.pop("tree_layout", None)
    states: Sequence[TrunkStates | None] | None = kwargs.pop("trunk_states", None)
    if layout is None:
        return _plain_attention(module, query, key, value, attention_mask, **kwargs)
    _check_tree_call(module, query, key, layout, attention_mask, kwargs)
    layout.state.uses += 1
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    past = None
    if states is not None:
        past = _exchange(module, key, value, layout, states)
    return _attend(query, key, value, layout, scaling, past), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: TreeLayout,
    scaling: float,
    past: Sequence[KeyValue | None] | None,
) -> torch.Tensor:
    """Through the best kernel that the device has for the layout, [1, T, H, D]."""
    if varlen_serves(query, layout):
        return varlen_attention(query, key, value, layout, scaling)
    if flex_serves(query):
        return flex_attention(query, key, value, layout, scaling, past)
    return merge_attention(query, key, value, layout, scaling, past)


def _exchange(
    module: torch.nn.Module,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: TreeLayout,
    states: Sequence[TrunkStates | None],
) -> list[KeyValue | None]:
    """Read what is cached of each trunk, and record what of it lies in the row."""
    if torch.is_grad_enabled():
        raise ValueError(
            "trunk_states hold no gradient: call the model under torch.no_grad(), or train without"
        )
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    trunks = [piece for piece in layout.pieces() if piece.branch == 0]
    past: list[KeyValue | None] = []
    for trunk, held in zip(trunks, states, strict=True):
        past.append(held.read(layer, trunk.attach) if held and trunk.attach else None)
        if held and held.recording and trunk.length:
            rows = slice(trunk.start, trunk.start + trunk.length)
            held.append(layer, key[0, :, rows], value[0, :, rows])
    return past


def dense_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The same as `tree_attention` through one T x T mask: the reference to compare with."""
    layout: TreeLayout | None = kwargs.pop("tree_layout", None)
    kwargs.pop("trunk_states", None)
    if layout is None:
        return _plain_attention(module, query, key, value, attention_mask, **kwargs)
    _check_tree_call(module, query, key, layout, attention_mask, kwargs)
    layout.state.uses += 1
    mask_TT = layout.dense_mask().to(query.device)
    groups = query.shape[1] // key.shape[1]
    out = F.scaled_dot_product_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        attn_mask=mask_TT,
        scale=kwargs.get("scaling"),
    )
    return out.transpose(1, 2).contiguous(), None


def _plain_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What a user's own forward or generate gets: stock causal attention."""
    _check_formula(module, kwargs)
    window = kwargs.get("sliding_window")
    if attention_mask is None and window is not None and query.shape[2] > window:
        raise ValueError(
            f"{type(module).__name__} has a sliding window of {window} tokens and this row has "
            f"{query.shape[2]}: pass an attention_mask, or load the model with "
            f"attn_implementation='sdpa', or shorten the row"
        )
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out, None


def _check_formula(module: torch.nn.Module, kwargs: dict[str, Any]) -> None:
    asked = [name for name in _OTHER_FORMULAS if kwargs.get(name) is not None]
    if asked:
        raise ValueError(
            f"{type(module).__name__} computes attention with {', '.join(asked)}, which "
            f"{TREE_ATTENTION} does not: choose a Llama-, Qwen3- or Mixtral-like model"
        )


def _check_tree_call(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    layout: TreeLayout,
    attention_mask: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> None:
    _check_formula(module, kwargs)
    name = type(module).__name__
    if query.shape[0] != 1 or query.shape[2] != layout.n_tokens:
        raise ValueError(
            f"the tree layout describes one row of {layout.n_tokens} tokens, but {name} got "
            f"{query.shape[0]} rows of {query.shape[2]}: pass input_ids of shape [1, T]"
        )
    if key.shape[2] != query.shape[2]:
        raise ValueError(
            f"{name} got {key.shape[2]} keys for {query.shape[2]} queries: a tree layout cannot be "
            f"used with a key-value cache; pass use_cache=False and no past_key_values"
        )
    if attention_mask is not None:
        raise ValueError(
            "tree_layout and attention_mask exclude each other: a packed row has no padding"
        )
    if kwargs.get("dropout"):
        raise ValueError(
            f"attention dropout of {kwargs['dropout']} would give a packed branch another result "
            f"than its own prompt: set config.attention_dropout to 0"
        )
    if not getattr(module, "is_causal", True):
        raise ValueError(f"{name} is not causal: trees need a decoder")
    window = kwargs.get("sliding_window")
    if window is not None and layout.longest_path > window:
        raise ValueError(
            f"{name} has a sliding window of {window} tokens, and the longest trunk with branch "
            f"has {layout.longest_path}: shorten the history, or choose a model without windows"
        )


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """No mask for an unpadded row, whatever its positions; stock masks for padding and caches."""
    if attention_mask is None and q_length == kv_length:
        return None
    mask: torch.Tensor | None = sdpa_mask(
        batch_size, q_length, kv_length, attention_mask=attention_mask, **kwargs
    )
    return mask


def register() -> None:
    """Make `attn_implementation="brewhouse_tree"` and `"brewhouse_dense"` known to transformers."""
    for name, function in ((TREE_ATTENTION, tree_attention), (DENSE_ATTENTION, dense_attention)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, _mask)
