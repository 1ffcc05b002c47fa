"""Rows of plain prompts on CUDA: FlashAttention's variable-length kernel.

Where no tree has more than one branch, and that one goes on where its trunk ends, a tree is one
causal sequence and the row a packed batch of sequences: layouts L0 and L1. The kernel wants to know
only where each sequence begins.

The kernel is torch's own where torch is new enough to share keys between heads in it, else that of
the package `flash-attn`.

Legend: T tokens of the row, H heads, H_kv key heads, D width of a head, N sequences.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from modeling.tree_layout import TreeLayout

_LEAST_CAPABILITY = (8, 0)
_GREATEST_HEAD_DIM = 256
_HALF = (torch.bfloat16, torch.float16)


class Sequences(NamedTuple):
    """Where the sequences of a row lie."""

    offsets: torch.Tensor
    """int32 [N + 1]: first token of each, and T."""
    longest: int
    """Tokens of the longest."""


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequences, float], torch.Tensor]
"""Causal: query [T, H, D], key and value [T, H_kv, D], sequences, scaling -> [T, H, D]."""


def varlen_serves(query: torch.Tensor, layout: TreeLayout) -> bool:
    """Whether the kernel can take these queries, [1, H, T, D], of this layout."""
    return (
        query.is_cuda
        and query.dtype in _HALF
        and query.shape[-1] <= _GREATEST_HEAD_DIM
        and query.shape[-1] % 8 == 0
        and is_plain(layout)
        and torch.cuda.get_device_capability(query.device) >= _LEAST_CAPABILITY
        and flash_kernel() is not None
    )


def is_plain(layout: TreeLayout) -> bool:
    """Whether every tree of the row is one causal sequence, all of it in the row."""
    if any(layout.cached_lengths or ()) or any(layout.windows or ()):
        return False
    return all(
        piece.branch < 2
        and piece.attach == (layout.trunk_lengths[piece.tree] if piece.branch else 0)
        for piece in layout.pieces()
    )


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: TreeLayout,
    scaling: float,
    *,
    kernel: Kernel | None = None,
) -> torch.Tensor:
    """Exact attention over a row of plain prompts.

    Args:
        query: [1, H, T, D].
        key: [1, H_kv, T, D]; H is a multiple of H_kv.
        value: like key.
        layout: of the row; `is_plain`.
        scaling: of the scores.
        kernel: in place of the installed FlashAttention.

    Returns:
        [1, T, H, D].

    Raises:
        ValueError: a tree of the layout is not one sequence, or there is no kernel.
    """
    if not is_plain(layout):
        raise ValueError(
            "the variable-length kernel takes rows of plain prompts; this layout has branches "
            "beside each other or along a trunk, a cache or a window: choose another kernel"
        )
    kernel = kernel or flash_kernel()
    if kernel is None:
        raise ValueError(
            f"torch {torch.__version__} has no variable-length attention with shared keys: update "
            f"it, or install flash-attn"
        )
    query_THD, key_THD, value_THD = (x[0].transpose(0, 1) for x in (query, key, value))
    return kernel(query_THD, key_THD, value_THD, sequences(layout, query.device), scaling)[None]


def sequences(layout: TreeLayout, device: torch.device) -> Sequences:
    """Where a plain layout's trees lie; made once per device and shared by all layers."""
    where = ("varlen", device)
    if where not in layout.state.plans:
        lengths = [
            trunk + sum(branches)
            for trunk, branches in zip(layout.trunk_lengths, layout.branch_lengths, strict=True)
            if trunk or branches
        ]
        offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        layout.state.plans[where] = Sequences(offsets.to(device), max(lengths))
    made: Sequences = layout.state.plans[where]
    return made


@functools.cache
def flash_kernel() -> Kernel | None:
    """The installed FlashAttention, or None."""
    if find_spec("torch.nn.attention.varlen") is not None:
        from torch.nn.attention.varlen import varlen_attn

        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            return _torch_kernel
    return _package_kernel if find_spec("flash_attn") is not None else None


def _torch_kernel(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    row: Sequences,
    scaling: float,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out: Any = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        row.offsets,
        row.offsets,
        row.longest,
        row.longest,
        scale=scaling,
        window_size=(-1, 0),  # any distance back, none ahead: causal
        enable_gqa=query_THD.shape[1] != key_THD.shape[1],
    )
    assert isinstance(out, torch.Tensor)
    return out


def _package_kernel(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    row: Sequences,
    scaling: float,
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    out: torch.Tensor = flash_attn_varlen_func(
        query_THD,
        key_THD,
        value_THD,
        cu_seqlens_q=row.offsets,
        cu_seqlens_k=row.offsets,
        max_seqlen_q=row.longest,
        max_seqlen_k=row.longest,
        softmax_scale=scaling,
        causal=True,
    )
    return out
