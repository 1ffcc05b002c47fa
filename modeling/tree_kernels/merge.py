"""Trunks and branches attended to apart and merged by their log-sum-exp.

Every token of the row has one *causal* part: the earlier tokens of its own trunk or branch.
Branches have up to two more, which need no mask: the trunk tokens in the row up to their attach
point, and those in a cache. (With a window, a trunk's events are parts as well, and see less.) So
the cost is trunk^2 / 2 + branches * (trunk + own): what exact
attention needs, and nothing between neighbours.

Branches of like lengths run as one batch, padded at their ends: a causal token never sees what
follows it, and padded places get no gradient.

Legend: T tokens of the row, H heads, H_kv key heads, D width of a head, B branches of a batch,
L their padded length.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling.tree_kernels.partial import attend, attend_backward
from modeling.tree_layout import Piece, TreeLayout
from modeling.tree_windows import Runs
from modeling.trunk_states import KeyValue, held_by

# Branches whose lengths differ by less than this run in one batch, padded to the longest.
_LENGTH_STEP = 16


class _Batch(NamedTuple):
    """Branches of like lengths: a causal part each."""

    shape: tuple[int, int]
    """(B, L)"""
    rows: torch.Tensor
    """int64 [B * L]: the row index of each place; padding repeats a branch's last token."""
    places: torch.Tensor
    """int64: which of the B * L places are real, branch after branch."""
    real_rows: torch.Tensor
    """int64: rows[places]."""


class _Rectangle(NamedTuple):
    """Queries [first, stop) of the row that all see the same keys."""

    queries: slice
    keys: slice
    """In the row, or in the cached trunk of `tree`."""
    tree: int | None
    """None: the keys lie in the row."""


class _Plan(NamedTuple):
    runs: tuple[slice, ...]
    """Trunks, and prompts of one branch: causal parts that need no padding."""
    batches: tuple[_Batch, ...]
    rectangles: tuple[_Rectangle, ...]


def merge_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: TreeLayout,
    scaling: float,
    past: Sequence[KeyValue | None] | None = None,
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

    Returns:
        [1, T, H, D].
    """
    plan = _plan_of(layout, query.device)
    out: torch.Tensor = _Merge.apply(  # type: ignore[no-untyped-call]
        query, key, value, plan, scaling, past
    )
    return out


class _Merge(torch.autograd.Function):
    """Forward and backward over the parts of a plan."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        plan: _Plan,
        scaling: float,
        past: Sequence[KeyValue | None] | None,
    ) -> torch.Tensor:
        dtype = torch.promote_types(query.dtype, torch.float32)
        _, H, T, D = query.shape
        out_THD = query.new_empty((T, H, D), dtype=dtype)
        lse_TH = query.new_empty((T, H), dtype=dtype)
        for run in plan.runs:
            part, lse = attend(
                query[:, :, run], key[:, :, run], value[:, :, run], causal=True, scale=scaling
            )
            out_THD[run], lse_TH[run] = part[0].transpose(0, 1), lse[0].T
        for batch in plan.batches:
            part, lse = attend(
                *(_batched(x, batch) for x in (query, key, value)), causal=True, scale=scaling
            )
            for whole, piece in ((out_THD, part), (lse_TH, lse)):
                flat = piece.transpose(1, 2).flatten(0, 1)  # [B * L, H, ...]
                whole.index_copy_(0, batch.real_rows, flat[batch.places].to(dtype))
        for rectangle in plan.rectangles:
            part, lse = attend(
                query[:, :, rectangle.queries],
                *_keys(rectangle, key, value, past),
                causal=False,
                scale=scaling,
            )
            rows = rectangle.queries
            _merge_into(out_THD[rows], lse_TH[rows], part[0].transpose(0, 1), lse[0].T)
        out = out_THD.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse_TH)
        ctx.plan, ctx.scaling, ctx.past = plan, scaling, past
        return out[None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out_THD, lse_TH = ctx.saved_tensors
        # Heads first, tokens outermost in memory, as the kernels write them.
        grad, out, lse = grad.transpose(1, 2), out_THD[None].transpose(1, 2), lse_TH[None].mT
        # Gradients of query, key and value: [T, H, D] and twice [T, H_kv, D].
        sums = [x.new_zeros(x.shape[2], x.shape[1], x.shape[3]) for x in (query, key, value)]

        def parts(rows: slice, keys: KeyValue, *, causal: bool) -> list[torch.Tensor]:
            gradients = attend_backward(
                grad[:, :, rows],
                query[:, :, rows],
                *keys,
                out[:, :, rows],
                lse[:, :, rows],
                causal=causal,
                scale=ctx.scaling,
            )
            return [gradient[0].transpose(0, 1) for gradient in gradients]

        for run in ctx.plan.runs:
            pieces = parts(run, (key[:, :, run], value[:, :, run]), causal=True)
            for sum_THD, piece in zip(sums, pieces, strict=True):
                sum_THD[run] += piece
        for rectangle in ctx.plan.rectangles:
            rows = rectangle.queries
            pieces = parts(rows, _keys(rectangle, key, value, ctx.past), causal=False)
            sums[0][rows] += pieces[0]
            if rectangle.tree is None:
                for sum_THD, piece in zip(sums[1:], pieces[1:], strict=True):
                    sum_THD[rectangle.keys] += piece
        for batch in ctx.plan.batches:
            gradients = attend_backward(
                _without_padding(_batched(grad, batch), batch),
                _batched(query, batch),
                _batched(key, batch),
                _batched(value, batch),
                _batched(out, batch),
                _batched(lse[..., None], batch)[..., 0],
                causal=True,
                scale=ctx.scaling,
            )
            for sum_THD, gradient in zip(sums, gradients, strict=True):
                flat = gradient.transpose(1, 2).flatten(0, 1)  # [B * L, heads, D]
                sum_THD.index_add_(0, batch.real_rows, flat[batch.places])
        return (*(sum_THD.transpose(0, 1)[None] for sum_THD in sums), None, None, None)


def _merge_into(
    out_QHD: torch.Tensor, lse_QH: torch.Tensor, part_QHD: torch.Tensor, part_lse_QH: torch.Tensor
) -> None:
    """Merge one more part into the views `out_QHD` and `lse_QH`, in place."""
    merged_QH = torch.logaddexp(lse_QH, part_lse_QH)
    out_QHD.mul_((lse_QH - merged_QH).exp_()[..., None])
    out_QHD.addcmul_(part_QHD.to(out_QHD.dtype), (part_lse_QH - merged_QH).exp_()[..., None])
    lse_QH.copy_(merged_QH)


def _batched(whole: torch.Tensor, batch: _Batch) -> torch.Tensor:
    """The places of a batch, [B, H, L, D], of a whole row [1, H, T, D]."""
    flat = whole[0].transpose(0, 1).index_select(0, batch.rows)
    return flat.reshape(*batch.shape, *flat.shape[1:]).transpose(1, 2)


def _without_padding(grad_BHLD: torch.Tensor, batch: _Batch) -> torch.Tensor:
    B, L = batch.shape
    real = torch.zeros(B * L, dtype=grad_BHLD.dtype, device=grad_BHLD.device)
    real[batch.places] = 1.0
    return grad_BHLD * real.view(B, 1, L, 1)


def _keys(
    rectangle: _Rectangle,
    key: torch.Tensor,
    value: torch.Tensor,
    past: Sequence[KeyValue | None] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if rectangle.tree is None:
        return key[:, :, rectangle.keys], value[:, :, rectangle.keys]
    held_key, held_value = held_by(past, rectangle.tree)
    return held_key[None, :, rectangle.keys], held_value[None, :, rectangle.keys]


def _plan_of(layout: TreeLayout, device: torch.device) -> _Plan:
    plans = layout.state.plans
    if ("merge", device) not in plans:
        plans["merge", device] = _plan(layout, device)
    plan: _Plan = plans["merge", device]
    return plan


def _plan(layout: TreeLayout, device: torch.device) -> _Plan:
    runs: list[slice] = []
    branches: list[Piece] = []
    rectangles: list[_Rectangle] = []
    for segments in _trees(layout):
        trunk = segments[0][0]  # its attach is the number of its cached tokens
        for piece, _ in segments:
            if piece.branch:
                branches.append(piece)
            elif piece.length:
                runs.append(slice(piece.start, piece.start + piece.length))
        for seen, alike in groupby(segments, key=itemgetter(1)):
            pieces = [piece for piece, _ in alike]
            queries = slice(pieces[0].start, pieces[-1].start + pieces[-1].length)
            for first, stop in seen if queries.start < queries.stop else ():
                if first < trunk.attach:
                    keys = slice(first, min(stop, trunk.attach))
                    rectangles.append(_Rectangle(queries, keys, trunk.tree))
                if stop > trunk.attach:
                    shift = trunk.start - trunk.attach
                    keys = slice(max(first, trunk.attach) + shift, stop + shift)
                    rectangles.append(_Rectangle(queries, keys, None))
    batches = tuple(_batch(group, device) for group in _like_lengths(branches))
    return _Plan(tuple(runs), batches, tuple(rectangles))


def _trees(layout: TreeLayout) -> Iterator[list[tuple[Piece, Runs]]]:
    """Each tree's segments; a lone branch that sees its whole trunk is a part of it."""
    for _, group in groupby(layout.segments(), key=lambda segment: segment[0].tree):
        segments = list(group)
        (trunk, seen), (last, last_seen) = segments[0], segments[-1]
        end = trunk.attach + trunk.length
        if len(segments) == 2 and last.branch and last_seen == (((0, end),) if end else ()):
            segments = [(trunk._replace(length=trunk.length + last.length), seen)]
        yield segments


def _like_lengths(branches: Sequence[Piece]) -> Iterator[list[Piece]]:
    groups: dict[int, list[Piece]] = {}
    for branch in branches:
        groups.setdefault((branch.length - 1) // _LENGTH_STEP, []).append(branch)
    yield from groups.values()


def _batch(branches: Sequence[Piece], device: torch.device) -> _Batch:
    starts = np.array([branch.start for branch in branches])
    lengths = np.array([branch.length for branch in branches])
    L = int(lengths.max())
    places_BL = np.arange(L)[None, :]
    rows = starts[:, None] + np.minimum(places_BL, lengths[:, None] - 1)
    places = np.flatnonzero(places_BL < lengths[:, None])
    return _Batch(
        (len(branches), L),
        *(
            torch.from_numpy(indices).to(device)
            for indices in (rows.ravel(), places, rows.ravel()[places])
        ),
    )
