"""Attention over trees packed flat into one row: encode a trunk once, ask many branches.

A micro-batch is one row of T tokens: trunk, its branches, next trunk, its branches, ...
A branch token sees its trunk and the earlier tokens of its own branch, nothing else, and its
positions restart at the trunk's end. So every branch gets exactly what it would get alone behind
a copy of its trunk (numerically too: the same sums, only in other shapes).

The mask of such a row is T x T and almost empty, so it is never built. Per tree, the trunk is one
causal attention; branches are taken in blocks of whole branches, each block's queries over
[trunk keys, block keys] with a mask of [block, P + block]. Cost is about P^2/2 + (branch tokens) *
(P + block), never T^2.

`register()` gives transformers two attention implementations: `brewhouse_tree` (above) and
`brewhouse_dense` (the T x T mask: slow, obvious, for comparison). The layout arrives as the keyword
`tree_layout` of the model's forward; without it both are plain causal attention.

Legend: T tokens of the row, P trunk length, H heads, D width of a head, Q queries, K keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

TREE_ATTENTION = "brewhouse_tree"
DENSE_ATTENTION = "brewhouse_dense"

# Whole branches up to this many tokens share one attention call. Measured on CPU with trunks of 300
# and 600 tokens: below 64 the calls dominate, above 256 the masked-out products between neighbours.
BLOCK_TOKENS = 128

# Keywords by which an architecture asks for another formula than softmax(QK'/s)V.
_OTHER_FORMULAS = ("softcap", "s_aux", "position_bias", "head_mask")


@dataclass(frozen=True, eq=False)
class _Segment:
    """The next `length` queries over a trunk's keys and their own; mask None means causal."""

    length: int
    trunk: int | None
    """Which segment is the trunk that these branches see; None for a trunk or a lone prompt."""
    mask_QK: torch.Tensor | None


@dataclass(eq=False)
class _LayoutState:
    """What a layout remembers: its segments per device, and how many layers have used it."""

    segments: dict[torch.device, tuple[_Segment, ...]] = field(default_factory=dict)
    uses: int = 0


@dataclass(frozen=True)
class TreeLayout:
    """Where the trunks and branches of a row lie: trunk, its branches, next trunk, ...

    A trunk may be empty, a tree may have no branch, a branch may be longer than its trunk.
    """

    trunk_lengths: tuple[int, ...]
    branch_lengths: tuple[tuple[int, ...], ...]
    _state: _LayoutState = field(
        default_factory=_LayoutState, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if len(self.trunk_lengths) != len(self.branch_lengths):
            raise ValueError(
                f"a tree layout has one tuple of branch lengths per trunk: got "
                f"{len(self.trunk_lengths)} trunks and {len(self.branch_lengths)} tuples"
            )
        for tree, (trunk, branches) in enumerate(
            zip(self.trunk_lengths, self.branch_lengths, strict=True)
        ):
            if trunk < 0:
                raise ValueError(f"tree {tree} has a trunk of {trunk} tokens; the least is 0")
            if branches and min(branches) < 1:
                raise ValueError(
                    f"tree {tree} has a branch of {min(branches)} tokens; a branch needs one token "
                    f"at least, since its answer is predicted at a token of its own"
                )
        if self.n_tokens == 0:
            raise ValueError("a tree layout of 0 tokens: give it one trunk or branch at least")

    @classmethod
    def from_arrays(
        cls,
        trunk_lengths: Sequence[int] | np.ndarray | torch.Tensor,
        branch_counts: Sequence[int] | np.ndarray | torch.Tensor,
        branch_lengths: Sequence[int] | np.ndarray | torch.Tensor,
    ) -> "TreeLayout":
        """Build from flat integers: per tree its trunk and number of branches, then all branches.

        Raises:
            ValueError: the counts do not add up to the number of branches.
        """
        trunks, counts, lengths = (
            [int(x) for x in values] for values in (trunk_lengths, branch_counts, branch_lengths)
        )
        if len(trunks) != len(counts) or sum(counts) != len(lengths) or min(counts, default=0) < 0:
            raise ValueError(
                f"branch counts must be one per trunk and add up to the branches: got "
                f"{len(trunks)} trunks, {len(counts)} counts that sum to {sum(counts)}, "
                f"{len(lengths)} branches"
            )
        rest = iter(lengths)
        return cls(
            tuple(trunks), tuple(tuple(next(rest) for _ in range(count)) for count in counts)
        )

    @property
    def n_tokens(self) -> int:
        """T, the length of the row."""
        return sum(self.trunk_lengths) + sum(map(sum, self.branch_lengths))

    @property
    def longest_path(self) -> int:
        """Tokens of the longest prompt: a trunk with its longest branch."""
        return max(
            trunk + max(branches, default=0)
            for trunk, branches in zip(self.trunk_lengths, self.branch_lengths, strict=True)
        )

    @property
    def uses(self) -> int:
        """How many attention layers have followed this layout so far."""
        return self._state.uses

    def positions(self) -> torch.Tensor:
        """Position ids, int64 [T]: 0..P-1 along a trunk; every branch restarts at its P."""
        parts = [
            np.arange(first, first + length) for _, _, first, length in self._pieces() if length
        ]
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    def dense_mask(self) -> torch.Tensor:
        """Which key (column) a query (row) sees, bool [T, T]; quadratic, for small rows."""
        trees, branches, lengths = zip(
            *((tree, branch, length) for tree, branch, _, length in self._pieces()), strict=True
        )
        repeats = torch.tensor(lengths)
        tree_T = torch.tensor(trees).repeat_interleave(repeats)
        branch_T = torch.tensor(branches).repeat_interleave(repeats)
        same_tree_TT = tree_T[:, None] == tree_T[None, :]
        trunk_or_own_TT = (branch_T[None, :] == 0) | (branch_T[:, None] == branch_T[None, :])
        causal_TT = torch.ones(self.n_tokens, self.n_tokens, dtype=torch.bool).tril()
        return same_tree_TT & trunk_or_own_TT & causal_TT

    def segments(self, device: torch.device) -> tuple[_Segment, ...]:
        """The attention calls that cover the row, in row order; built once per device."""
        if device not in self._state.segments:
            self._state.segments[device] = tuple(_segments(self, device))
        return self._state.segments[device]

    def _pieces(self) -> Iterator[tuple[int, int, int, int]]:
        """(tree, branch, first position, length) in row order; branch 0 is the trunk."""
        for tree, (trunk, branches) in enumerate(
            zip(self.trunk_lengths, self.branch_lengths, strict=True)
        ):
            yield tree, 0, 0, trunk
            for branch, length in enumerate(branches, start=1):
                yield tree, branch, trunk, length


def _segments(layout: TreeLayout, device: torch.device) -> Iterator[_Segment]:
    masks: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}  # repeated shapes share a mask
    count = 0
    for trunk, branches in zip(layout.trunk_lengths, layout.branch_lengths, strict=True):
        if len(branches) == 1:  # a lone branch continues its trunk: one causal prompt
            yield _Segment(trunk + branches[0], None, None)
            count += 1
            continue
        trunk_segment = count if trunk else None
        if trunk:
            yield _Segment(trunk, None, None)
            count += 1
        for block in _blocks(branches):
            if (trunk, block) not in masks:
                masks[trunk, block] = _block_mask(trunk, block).to(device)
            yield _Segment(sum(block), trunk_segment, masks[trunk, block])
            count += 1


def _blocks(branches: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Runs of whole branches of at most BLOCK_TOKENS together; a longer branch stands alone."""
    block: list[int] = []
    for length in branches:
        if block and sum(block) + length > BLOCK_TOKENS:
            yield tuple(block)
            block = []
        block.append(length)
    if block:
        yield tuple(block)


def _block_mask(trunk: int, block: tuple[int, ...]) -> torch.Tensor:
    """Bool [Q, trunk + Q]: all of the trunk, and the earlier tokens of one's own branch."""
    branch_Q = torch.arange(len(block)).repeat_interleave(torch.tensor(block))
    own_QQ = (branch_Q[:, None] == branch_Q[None, :]).tril()
    return torch.cat([own_QQ.new_ones(sum(block), trunk), own_QQ], dim=1)


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
        **kwargs: of these, `tree_layout: TreeLayout | None`, `scaling`, `dropout` and
            `sliding_window` are understood.

    Returns:
        [1, T, H, D] and None (attention weights are not kept).

    Raises:
        ValueError: the layer asks for something that is not exact or not supported here.
    """
    layout: TreeLayout | None = kwargs.pop("tree_layout", None)
    if layout is None:
        return _plain_attention(module, query, key, value, attention_mask, **kwargs)
    _check_tree_call(module, query, key, layout, attention_mask, kwargs)
    layout._state.uses += 1
    scaling = kwargs.get("scaling")
    segments = layout.segments(query.device)
    lengths = [segment.length for segment in segments]
    # Split once: the gradient of a split is one concatenation, that of a slice a row of zeros.
    queries, keys, values = (torch.split(x, lengths, dim=2) for x in (query, key, value))
    pieces = []
    for segment, query_Q, key_K, value_K in zip(segments, queries, keys, values, strict=True):
        if segment.trunk is not None:
            key_K = torch.cat([keys[segment.trunk], key_K], dim=2)
            value_K = torch.cat([values[segment.trunk], value_K], dim=2)
        out = _sdpa(query_Q, key_K, value_K, segment.mask_QK, scaling)
        pieces.append(out.transpose(1, 2))
    return torch.cat(pieces, dim=1), None


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
    if layout is None:
        return _plain_attention(module, query, key, value, attention_mask, **kwargs)
    _check_tree_call(module, query, key, layout, attention_mask, kwargs)
    layout._state.uses += 1
    mask_TT = layout.dense_mask().to(query.device)
    out = _sdpa(query, key, value, mask_TT, kwargs.get("scaling"))
    return out.transpose(1, 2).contiguous(), None


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask_QK: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """[1, H, Q, D]; causal where there is no mask."""
    groups = query.shape[1] // key.shape[1]
    grouped = groups > 1 and _takes_grouped_heads(query.device, mask_QK)
    if groups > 1 and not grouped:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask_QK,
        is_causal=mask_QK is None,
        scale=scaling,
        enable_gqa=grouped,
    )


def _takes_grouped_heads(device: torch.device, mask_QK: torch.Tensor | None) -> bool:
    """Whether the kernel reads shared keys as they are: on CPU its backward is a third faster so.

    On CUDA a mask together with grouped heads falls back to the slowest kernel; copies do not.
    """
    return mask_QK is None or device.type == "cpu"


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
