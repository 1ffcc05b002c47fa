"""One part of an attention, with the log-sum-exp by which parts are merged.

If a query's keys are dealt out to parts, each of which gives its own softmax-weighted values o_i
and the log-sum-exp l_i of its scores, then attention over all keys is

    l = logsumexp_i l_i        o = sum_i exp(l_i - l) o_i

and the gradients of a part's queries, keys and values are those of ordinary attention computed
with the *merged* o and l, since exp(score - l) is the weight that a key has in the whole
(FlashAttention, Dao et al. 2022, arXiv 2205.14135, sections 3.1 and B; ring attention uses it so).

Legend: B batch, H heads, H_kv key heads, Q queries, K keys, D width of a head.
"""

from typing import Any

import torch

_aten: Any = torch.ops.aten


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over some of the keys.

    Args:
        query: [B, H, Q, D].
        key: [B, H_kv, K, D].
        value: like key.
        causal: query i sees keys 0..i (Q equals K); otherwise all of them.
        scale: of the scores.

    Returns:
        Weighted values [B, H, Q, D], and log-sum-exp [B, H, Q] in fp32 or better.
    """
    if _has_flash(query):
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=None, scale=scale
        )
        return out, lse
    key, value = _per_head(key, query), _per_head(value, query)
    scores = _scores(query, key, causal=causal, scale=scale)
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ value.to(scores.dtype)).to(query.dtype), lse


def attend_backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A part's gradients with respect to query, key and value, of the same shapes.

    `out` [B, H, Q, D] and `lse` [B, H, Q] are the merged ones of the queries, and `grad_out` is the
    gradient of the merged output.
    """
    if _has_flash(query):
        gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (
            _aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out, query, key, value, out, lse, 0.0, causal, attn_mask=None, scale=scale
            )
        )
        return gradients
    key_H, value_H = _per_head(key, query), _per_head(value, query)
    scores = _scores(query, key_H, causal=causal, scale=scale)
    weights = (scores - lse[..., None]).exp()
    grad, out = grad_out.to(scores.dtype), out.to(scores.dtype)
    grad_weights = grad @ value_H.to(scores.dtype).mT
    grad_scores = weights * (grad_weights - (grad * out).sum(-1, keepdim=True)) * scale
    grad_query = (grad_scores @ key_H.to(scores.dtype)).to(query.dtype)
    grad_key = grad_scores.mT @ query.to(scores.dtype)
    grad_value = weights.mT @ grad
    return grad_query, _summed(grad_key, key), _summed(grad_value, value)


def _has_flash(query: torch.Tensor) -> bool:
    """Whether torch's CPU kernel runs; everywhere else the formula is written out."""
    return query.device.type == "cpu"


def _scores(query: torch.Tensor, key: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """[B, H, Q, K] in fp32 or better."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(dtype) @ key.to(dtype).mT * scale
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores


def _per_head(key: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys repeated for the query heads that share them."""
    return key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)


def _summed(gradient: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The gradients of repeated heads added up, [B, H_kv, K, D] in the key's dtype."""
    B, H_kv, K, D = key.shape
    return gradient.reshape(B, H_kv, -1, K, D).sum(2).to(key.dtype)
