"""Tree attention on CUDA: one FlexAttention call for the whole row, compiled once per process.

A query sees few runs of consecutive keys: its trunk up to the attach point (with a window: the
profile, and some events), and its own piece up to itself. So the mask is a few integers per query,
compared with a key's index inside the kernel; which blocks of 128 x 128 hold any visible pair, and
which nothing else, is counted from the same integers in numpy. No tensor of queries x keys is made
anywhere.

Compilation is what goes wrong with FlexAttention, and the choices here answer it. Lengths are
padded to whole blocks and handed over as (blocks, 128) with the number of blocks marked as dynamic,
so that one kernel serves every row and still knows that no block is cut; two blocks are the least,
because torch.compile specializes on a size of 1. The mask is made inside the compiled function,
from tables that are its arguments. Padding queries see one key, so that no softmax is empty. And no
row is shorter than a block, so that torch never chooses its decoding kernel, which wants a power
of two of heads per key head.

Legend: T tokens of the row, Q queries (T padded), K keys (cached ones and T, padded), R runs,
H heads, D width of a head, M and N blocks of queries and of keys.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention as torch_flex

from modeling.tree_layout import TreeLayout
from modeling.trunk_states import KeyValue, held_by

Runs = tuple[tuple[torch.Tensor, torch.Tensor], ...]

BLOCK = 128
_LEAST_HEAD_DIM = 16  # of Triton's matrix products
_LEAST_CAPABILITY = (8, 0)
# Every shape of a model's heads, with and without gradients and caches, is a compilation; torch's
# own limit of 8 is an error within a process that holds a teacher and a student.
_RECOMPILE_LIMIT = 64


class _Blocks(NamedTuple):
    """Which key blocks a query block meets, in the field order of `BlockMask`; int32 tensors."""

    kv_num_blocks: torch.Tensor
    kv_indices: torch.Tensor
    full_kv_num_blocks: torch.Tensor
    full_kv_indices: torch.Tensor
    q_num_blocks: torch.Tensor
    q_indices: torch.Tensor
    full_q_num_blocks: torch.Tensor
    full_q_indices: torch.Tensor


class FlexPlan(NamedTuple):
    """What FlexAttention needs to know of a layout, on one device."""

    runs: Runs
    """R pairs of int32 [Q]: a query sees the keys from the first to before the second."""
    blocks: _Blocks


def flex_serves(query: torch.Tensor) -> bool:
    """Whether FlexAttention's compiled kernel can take these queries, [1, H, T, D]."""
    return (
        query.is_cuda
        and query.shape[-1] >= _LEAST_HEAD_DIM
        and torch.cuda.get_device_capability(query.device) >= _LEAST_CAPABILITY
        and find_spec("triton") is not None
    )


def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: TreeLayout,
    scaling: float,
    past: Sequence[KeyValue | None] | None = None,
    *,
    kernel: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Exact attention over a row of trees.

    Args:
        query: [1, H, T, D].
        key: [1, H_kv, T, D]; H is a multiple of H_kv.
        value: like key.
        layout: of the row.
        scaling: of the scores.
        past: for each tree, keys and values of its cached tokens, [H_kv, P, D] each. No gradient
            flows into them.
        kernel: a compilation of `flex_row` other than the process's own.

    Returns:
        [1, T, H, D].

    Raises:
        ValueError: the layout has a cached trunk that `past` does not hold.
    """
    if any(layout.cached_lengths or ()):
        key, value = _behind_past(key, value, layout, past)
    plan = flex_plan(layout, query.device)
    query_blocks, key_blocks, value_blocks = (_in_blocks(x) for x in (query, key, value))
    kernel = kernel or _compiled()
    with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT):
        out = kernel(query_blocks, key_blocks, value_blocks, plan.runs, plan.blocks, scaling)
    return out[:, :, : layout.n_tokens].transpose(1, 2)


def flex_row(
    query_blocks: torch.Tensor,
    key_blocks: torch.Tensor,
    value_blocks: torch.Tensor,
    runs: Runs,
    blocks: _Blocks,
    scaling: float,
) -> torch.Tensor:
    """What is compiled: queries [1, H, M, 128, D], keys [1, H_kv, N, 128, D] -> [1, H, Q, D]."""

    def sees(
        batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        in_runs = [(k >= first_Q[q]) & (k < end_Q[q]) for first_Q, end_Q in runs]
        return functools.reduce(torch.logical_or, in_runs)

    query, key, value = (x.flatten(2, 3) for x in (query_blocks, key_blocks, value_blocks))
    # Made here, from symbolic lengths: as an argument it would tie the kernel to one length.
    lengths = (query.shape[2], key.shape[2])
    mask = torch_flex.BlockMask(lengths, *blocks, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)
    out: torch.Tensor = torch_flex.flex_attention(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out


@functools.cache
def _compiled() -> Callable[..., torch.Tensor]:
    return torch.compile(flex_row, fullgraph=True)


def flex_plan(layout: TreeLayout, device: torch.device) -> FlexPlan:
    """The plan of a layout; made once per device and shared by all layers."""
    where = ("flex", device)
    if where not in layout.state.plans:
        layout.state.plans[where] = _build_plan(layout, device)
    plan: FlexPlan = layout.state.plans[where]
    return plan


def _build_plan(layout: TreeLayout, device: torch.device) -> FlexPlan:
    runs_R2Q = key_runs(layout)
    n_keys = layout.n_tokens + sum(layout.cached_lengths or ())
    some_MN, whole_MN = block_tables(runs_R2Q, _n_blocks(n_keys))
    partial_MN = some_MN & ~whole_MN
    tables = [
        _table(array, device)
        for table_MN in (partial_MN, whole_MN, partial_MN.T, whole_MN.T)
        for array in _ordered(table_MN)
    ]
    runs = tuple((_table(first_Q, device), _table(end_Q, device)) for first_Q, end_Q in runs_R2Q)
    return FlexPlan(runs, _Blocks(*tables))


def _table(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An integer table on the device, whose long sides a compiled kernel keeps symbolic."""
    table = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    for dim, size in enumerate(table.shape):
        if size > 1:
            torch._dynamo.maybe_mark_dynamic(table, dim)
    return table


def key_runs(layout: TreeLayout) -> np.ndarray:
    """The runs of keys that each query sees, int32 [R, 2, Q]: first, and one behind the last.

    A tree's cached trunk tokens stand among the keys before its tokens of the row. Runs that touch
    are one, so that a block of keys is whole exactly when one run holds it. Padding queries see
    the first key.
    """
    n_runs = 3 if any(layout.windows or ()) else 2
    padding = _n_blocks(layout.n_tokens) * BLOCK - layout.n_tokens
    runs_R2Q = np.zeros((n_runs, 2, layout.n_tokens + padding), np.int32)
    runs_R2Q[-1, 1, layout.n_tokens :] = 1
    trunk_keys, shifts = _key_offsets(layout)
    for segment, seen in layout.segments():
        rows = slice(segment.start, segment.start + segment.length)
        own_key = own_first = segment.start + shifts[segment.tree]
        for run, (first, stop) in enumerate(seen):
            first_key, stop_key = (
                trunk_keys[segment.tree] + position for position in (first, stop)
            )
            if stop_key == own_key:
                own_first = first_key
            else:
                runs_R2Q[run, :, rows] = [[first_key], [stop_key]]
        runs_R2Q[-1, 0, rows] = own_first
        runs_R2Q[-1, 1, rows] = own_key + 1 + np.arange(segment.length)
    return runs_R2Q


def _key_offsets(layout: TreeLayout) -> tuple[list[int], list[int]]:
    """For each tree: the key of its trunk's first token, and what turns its rows into keys."""
    trunks = [piece for piece in layout.pieces() if piece.branch == 0]
    shifts = list(itertools.accumulate(trunk.attach for trunk in trunks))  # attach: its cached
    trunk_keys = [
        trunk.start - trunk.attach + shift for trunk, shift in zip(trunks, shifts, strict=True)
    ]
    return trunk_keys, shifts


def block_tables(runs_R2Q: np.ndarray, n_key_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair of blocks: is any key seen by any query, are all by all; bool [M, N] each."""
    first_RQ, end_RQ = runs_R2Q[:, 0].astype(np.int64), runs_R2Q[:, 1].astype(np.int64)
    query_block_Q = np.arange(first_RQ.shape[1]) // BLOCK
    shape = (first_RQ.shape[1] // BLOCK, n_key_blocks + 1)

    def count(first_block_RQ: np.ndarray, end_block_RQ: np.ndarray) -> np.ndarray:
        """Runs that cover a block, by the sum along N of +1 where they begin, -1 where they end."""
        steps_MN = np.zeros(shape, np.int64)
        used_RQ = (end_RQ > first_RQ) & (end_block_RQ > first_block_RQ)
        row_RQ = np.broadcast_to(query_block_Q, used_RQ.shape)[used_RQ]
        np.add.at(steps_MN, (row_RQ, first_block_RQ[used_RQ]), 1)
        np.add.at(steps_MN, (row_RQ, end_block_RQ[used_RQ]), -1)
        return steps_MN.cumsum(axis=1)[:, :-1]

    touched_MN = count(first_RQ // BLOCK, -(-end_RQ // BLOCK))
    filled_MN = count(-(-first_RQ // BLOCK), end_RQ // BLOCK)
    return touched_MN > 0, filled_MN == BLOCK


def _ordered(table_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `BlockMask` wants it: counts int32 [1, 1, M]; columns [1, 1, M, N], true ones first."""
    order_MN = np.argsort(~table_MN, axis=1, kind="stable").astype(np.int32)
    return table_MN.sum(axis=1, dtype=np.int32)[None, None], order_MN[None, None]


def _n_blocks(length: int) -> int:
    return max(2, -(-length // BLOCK))


def _in_blocks(x: torch.Tensor) -> torch.Tensor:
    """[1, H, L, D] -> [1, H, blocks, 128, D], zeros behind."""
    blocks = _n_blocks(x.shape[2])
    padded = F.pad(x, (0, 0, 0, blocks * BLOCK - x.shape[2])).contiguous()  # one order of strides
    # Not `view`: torch.compile would guard the lengths of the tensor behind a view, and recompile.
    in_blocks: torch.Tensor = torch.ops.aten._unsafe_view(
        padded, [*x.shape[:2], blocks, BLOCK, x.shape[3]]
    )
    torch._dynamo.maybe_mark_dynamic(in_blocks, 2)
    return in_blocks


def _behind_past(
    key: torch.Tensor,
    value: torch.Tensor,
    layout: TreeLayout,
    past: Sequence[KeyValue | None] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, H_kv, T, D] -> [1, H_kv, K, D]: the tokens of each tree behind its cached ones."""
    lengths = [0] * len(layout.trunk_lengths)
    for piece in layout.pieces():
        lengths[piece.tree] += piece.length
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    trees = zip(torch.split(key, lengths, dim=2), torch.split(value, lengths, dim=2), strict=True)
    for tree, (own_key, own_value) in enumerate(trees):
        if layout.cached_lengths and layout.cached_lengths[tree]:
            held_key, held_value = held_by(past, tree)
            keys.append(held_key[None])
            values.append(held_value[None])
        keys.append(own_key)
        values.append(own_value)
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)
