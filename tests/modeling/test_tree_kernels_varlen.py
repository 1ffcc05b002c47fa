"""A row of plain prompts as variable-length sequences equals the dense mask."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import build, random_tokens

from modeling import tree_attention
from modeling.exactness import packing_differences
from modeling.tree_kernels import varlen
from modeling.tree_kernels.varlen import Sequences, is_plain, sequences, varlen_attention
from modeling.tree_layout import TreeLayout

CPU = torch.device("cpu")
SCALING = 0.3


def one_by_one(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    row: Sequences,
    scaling: float,
) -> torch.Tensor:
    """What FlashAttention promises: causal attention within each sequence."""
    lengths = row.offsets.diff().tolist()
    assert max(lengths) == row.longest
    outs = []
    parts = (torch.split(x, lengths) for x in (query_THD, key_THD, value_THD))
    for tensors in zip(*parts, strict=True):
        heads_first = (x.transpose(0, 1)[None] for x in tensors)
        out = F.scaled_dot_product_attention(
            *heads_first, is_causal=True, scale=scaling, enable_gqa=True
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def row(layout: TreeLayout, heads: int = 4, width: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, n, layout.n_tokens, width, generator=generator, requires_grad=True)
        for n in (heads, 2, 2)
    ]


def dense(layout: TreeLayout, tensors: list[torch.Tensor]) -> torch.Tensor:
    out = F.scaled_dot_product_attention(
        *tensors,
        attn_mask=layout.dense_mask().to(tensors[0].device),
        scale=SCALING,
        enable_gqa=True,
    )
    return out.transpose(1, 2)


PROMPTS = st.lists(
    st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(1, 12))), min_size=1, max_size=6
).filter(lambda prompts: any(trunk or branch for trunk, branch in prompts))


@settings(max_examples=30, deadline=None)
@given(prompts=PROMPTS)
def test_any_row_of_prompts_equals_the_dense_mask(prompts: list[tuple[int, int | None]]) -> None:
    layout = TreeLayout(
        tuple(trunk for trunk, _ in prompts),
        tuple(() if branch is None else (branch,) for _, branch in prompts),
    )
    assert is_plain(layout)
    tensors = row(layout)
    ours = varlen_attention(*tensors, layout, SCALING, kernel=one_by_one)
    theirs = dense(layout, tensors)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(ours, tensors, weights)
    for a, b in zip(got, torch.autograd.grad(theirs, tensors, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_empty_trees_are_no_sequences() -> None:
    layout = TreeLayout((3, 0, 0, 2), ((4,), (), (5,), ()))
    row_of = sequences(layout, CPU)
    assert row_of.offsets.tolist() == [0, 7, 12, 14]
    assert row_of.offsets.dtype == torch.int32
    assert row_of.longest == 7
    assert sequences(layout, CPU) is row_of


@pytest.mark.parametrize(
    "layout",
    [
        TreeLayout((3,), ((4, 1),)),
        TreeLayout((3, 5), ((4,), (2,)), attach=((3,), (4,))),
        TreeLayout((3,), ((4,),), cached_lengths=(2,)),
        TreeLayout((3,), ((4,),), cached_lengths=(3,)),
    ],
    ids=["two branches", "attached along the trunk", "partly cached", "cached"],
)
def test_other_rows_are_refused(layout: TreeLayout) -> None:
    assert not is_plain(layout)
    with pytest.raises(ValueError, match="takes rows of plain prompts"):
        varlen_attention(*row(layout), layout, SCALING, kernel=one_by_one)


def test_a_model_through_sequences_equals_one_prompt_per_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = TreeLayout((7, 0, 3, 5), ((3,), (4,), (), (1,)))
    model, tokens_T = build("qwen3").double(), random_tokens(layout)
    monkeypatch.setattr(tree_attention, "varlen_serves", lambda query, layout: is_plain(layout))
    monkeypatch.setattr(varlen, "flash_kernel", lambda: one_by_one)
    differences = packing_differences(model, layout, tokens_T, random_tokens(layout, seed=1))
    assert ("varlen", CPU) in layout.state.plans
    assert differences.logits < 1e-9
    assert differences.gradients < 1e-9


def test_the_installed_torch_has_the_kernel() -> None:
    assert varlen.flash_kernel() is varlen._torch_kernel


def test_the_cpu_is_not_served() -> None:
    query = torch.zeros(1, 2, 7, 64, dtype=torch.bfloat16)
    assert not varlen.varlen_serves(query, TreeLayout((3,), ((4,),)))


def test_no_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "flash_kernel", lambda: None)
    layout = TreeLayout((3,), ((4,),))
    with pytest.raises(ValueError, match="install flash-attn"):
        varlen_attention(*row(layout), layout, SCALING)


def test_torch_is_asked_for_causal_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that reaches torch, with torch's kernel replaced by its promise."""
    asked = {}

    def promise(*args: torch.Tensor, **kwargs: object) -> torch.Tensor:
        asked.update(kwargs)
        query, key, value, offsets, key_offsets, longest, _ = args
        assert offsets is key_offsets
        return one_by_one(query, key, value, Sequences(offsets, int(longest)), SCALING)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", promise)
    layout = TreeLayout((3, 9), ((4,), ()))
    tensors = row(layout)
    ours = varlen_attention(*tensors, layout, SCALING, kernel=varlen._torch_kernel)
    torch.testing.assert_close(ours, dense(layout, tensors), rtol=0, atol=1e-5)
    assert asked == {"scale": SCALING, "window_size": (-1, 0), "enable_gqa": True}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_attention_equals_the_dense_mask() -> None:
    layout = TreeLayout((300, 0, 40), ((20,), (7,), ()))
    tensors = [x.detach().to("cuda", torch.bfloat16) for x in row(layout, width=64)]
    tensors = [x.requires_grad_() for x in tensors]
    assert varlen.varlen_serves(tensors[0], layout)
    ours = varlen_attention(*tensors, layout, SCALING)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    theirs = dense(layout, exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5e-2)
    got = torch.autograd.grad(ours.float().sum(), tensors)
    for a, b in zip(got, torch.autograd.grad(theirs.sum(), exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0.1, atol=0.1)
