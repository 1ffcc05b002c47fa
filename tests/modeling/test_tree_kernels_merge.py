"""Parts of an attention, and trunks whose keys and values are kept."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import build, forests, random_tokens

import modeling.tree_attention as tree_attention
from modeling.exactness import KeepDouble
from modeling.tree_kernels import partial
from modeling.tree_kernels.merge import merge_attention
from modeling.tree_layout import TreeLayout
from modeling.trunk_states import TrunkStates

H, H_KV, D = 4, 2, 6
Tensors = list[torch.Tensor]


def random_qkv(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, n, heads, D, generator=generator, dtype=dtype).transpose(1, 2)
        for heads in (H, H_KV, H_KV)
    ]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TreeLayout):
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=layout.dense_mask(), scale=0.7, enable_gqa=True
    )
    return out.transpose(1, 2)


def with_gradients(function: Callable[..., torch.Tensor], qkv: Tensors) -> Tensors:
    leaves = [x.clone().requires_grad_() for x in qkv]
    out = function(*leaves)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@settings(max_examples=60, deadline=None)
@given(layout=forests(), written_out=st.booleans())
def test_merged_parts_equal_the_dense_mask(layout: TreeLayout, written_out: bool) -> None:
    qkv = random_qkv(layout.n_tokens)
    with pytest.MonkeyPatch.context() as patch:
        if written_out:  # what devices without torch's CPU kernel run
            patch.setattr(partial, "_has_flash", lambda query: False)
        got = with_gradients(lambda *x: merge_attention(*x, layout, 0.7), qkv)
    expected = with_gradients(lambda *x: dense(*x, layout), qkv)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_gradients_stand_against_finite_differences() -> None:
    layout = TreeLayout((4, 2), ((3, 1, 2), (2,)), ((4, 1, 0), (2,)))
    leaves = [x.requires_grad_() for x in random_qkv(layout.n_tokens)]
    assert torch.autograd.gradcheck(lambda *x: merge_attention(*x, layout, 0.7), leaves)


def test_merging_keeps_far_scores() -> None:
    """A part whose scores are hundreds below the others' weighs nothing, and gives no NaN."""
    layout = TreeLayout((3,), ((2, 2),))
    query, key, value = random_qkv(layout.n_tokens)
    for far in (-300.0, 300.0):
        moved = key.clone()
        moved[:, :, :3] += far
        got = merge_attention(query, moved, value, layout, 0.7)
        torch.testing.assert_close(got, dense(query, moved, value, layout), rtol=0, atol=1e-9)


def run(model, tokens_T, layout, states=None) -> torch.Tensor:
    with KeepDouble(), torch.no_grad():
        output = model(
            input_ids=tokens_T[None],
            position_ids=layout.positions()[None],
            tree_layout=layout,
            trunk_states=states,
            use_cache=False,
        )
    return output.logits[0]


@settings(max_examples=30, deadline=None)
@given(layout=forests(), data=st.data())
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_trunk_from_the_cache_equals_one_in_the_row(
    name: str, layout: TreeLayout, data: st.DataObject
) -> None:
    """First tokens of trunks are encoded and recorded; then the rest of the trees alone."""
    model, tokens_T = build(name).double(), random_tokens(layout)
    expected_TV = run(model, tokens_T, layout)
    trunks = layout.trunk_lengths
    cached = tuple(data.draw(st.integers(0, trunk)) for trunk in trunks)
    states = [TrunkStates() for _ in trunks]
    starts = [piece.start for piece in layout.pieces() if piece.branch == 0]
    if sum(cached):
        first = TreeLayout(cached, ((),) * len(trunks))
        rows = [range(s, s + c) for s, c in zip(starts, cached, strict=True)]
        run(model, tokens_T[[r for part in rows for r in part]], first, states)
    assert [held.length for held in states] == list(cached)
    if layout.n_tokens > sum(cached):
        rest = TreeLayout(trunks, layout.branch_lengths, layout.attach, cached)
        keep = torch.ones(layout.n_tokens, dtype=torch.bool)
        for s, c in zip(starts, cached, strict=True):
            keep[s : s + c] = False
        got_TV = run(model, tokens_T[keep], rest, states)
        torch.testing.assert_close(got_TV, expected_TV[keep], rtol=0, atol=1e-9)
        assert [held.length for held in states] == list(trunks)


def test_states_of_another_trunk_are_refused() -> None:
    model, layout = build("llama"), TreeLayout((4,), ((2,),), cached_lengths=(3,))
    tokens_T = torch.zeros(layout.n_tokens, dtype=torch.long)
    with pytest.raises(ValueError, match="3 cached trunk tokens are asked of layer 0"):
        run(model, tokens_T, layout, [TrunkStates()])
    with pytest.raises(ValueError, match="tree 0 has a cached trunk, and no states"):
        run(model, tokens_T, layout)


def test_states_are_refused_in_training() -> None:
    layout = TreeLayout((4,), ((2,),))
    with pytest.raises(ValueError, match="hold no gradient"):
        build("llama")(
            input_ids=random_tokens(layout)[None],
            position_ids=layout.positions()[None],
            tree_layout=layout,
            trunk_states=[TrunkStates()],
            use_cache=False,
        )


def test_states_can_be_cut_and_copied() -> None:
    states = TrunkStates()
    keys = torch.arange(2 * 5 * 3, dtype=torch.float32).view(2, 5, 3)
    for layer in range(2):
        states.append(layer, keys, -keys)
    assert (states.length, states.nbytes) == (5, 2 * 2 * 30 * 4)
    twin = states.copy(3)
    twin.append(0, keys[:, :1], keys[:, :1])
    assert (states.length, twin.length) == (5, 3), "the twin's layer 1 has not grown yet"
    twin.append(1, keys[:, :1], keys[:, :1])
    assert twin.length == 4
    states.truncate(2)
    assert torch.equal(states.read(1, 2)[1], -keys[:, :2])
    states.truncate(0)
    assert (states.length, states.nbytes) == (0, 0)


@pytest.mark.parametrize(
    ("plain", "flex", "expected"),
    [(True, True, "varlen"), (False, True, "flex"), (False, False, "merge")],
)
def test_the_best_kernel_that_serves_is_taken(
    monkeypatch: pytest.MonkeyPatch, plain: bool, flex: bool, expected: str
) -> None:
    called: list[str] = []

    def kernel(name: str) -> Callable[..., torch.Tensor]:
        def run(query: torch.Tensor, *rest: object) -> torch.Tensor:
            called.append(name)
            return query.transpose(1, 2)

        return run

    monkeypatch.setattr(tree_attention, "varlen_serves", lambda query, layout: plain)
    monkeypatch.setattr(tree_attention, "flex_serves", lambda query: flex)
    for name in ("varlen", "flex", "merge"):
        monkeypatch.setattr(tree_attention, f"{name}_attention", kernel(name))
    layout = TreeLayout((4,), ((2,),))
    run(build("llama").double(), random_tokens(layout), layout)
    assert set(called) == {expected}
