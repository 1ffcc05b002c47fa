"""Windows of events: what is seen, what is equal, and what is not exact about them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import SIZES, forests, random_tokens
from transformers import LlamaConfig, LlamaForCausalLM

from modeling.exactness import KeepDouble
from modeling.forgetting import forgetting, linear_rates
from modeling.label_scores import label_logits
from modeling.tree_attention import register
from modeling.tree_kernels.flex import key_runs
from modeling.tree_kernels.merge import merge_attention
from modeling.tree_layout import TreeLayout
from modeling.tree_windows import EventWindow

SCALING = 0.3


@st.composite
def windowed(draw: st.DrawFn) -> TreeLayout:
    """Forests in which some trunks have events and a window over them."""
    layout = draw(forests())
    windows = []
    for trunk in layout.trunk_lengths:
        starts = sorted(draw(st.sets(st.integers(0, trunk - 1), max_size=7))) if trunk else []
        windows.append(EventWindow(tuple(starts), draw(st.integers(1, 4))) if starts else None)
    return replace(layout, windows=tuple(windows))


def row(layout: TreeLayout) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, layout.n_tokens, 8, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    ]


def dense(layout: TreeLayout, tensors: list[torch.Tensor]) -> torch.Tensor:
    out = F.scaled_dot_product_attention(
        *tensors, attn_mask=layout.dense_mask(), scale=SCALING, enable_gqa=True
    )
    return out.transpose(1, 2)


def test_dense_mask_by_hand() -> None:
    expected = [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],  # profile
        [1, 1, 0, 0, 0, 0, 0, 0, 0],  # first event, of two tokens
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],  # second
        [1, 0, 0, 1, 1, 0, 0, 0, 0],  # third: not the first any more
        [1, 0, 0, 0, 1, 1, 0, 0, 0],  # fourth
        [1, 0, 0, 0, 0, 1, 1, 0, 0],  # branch behind it, of two tokens
        [1, 0, 0, 0, 0, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 1],  # branch in front of the second event
    ]
    window = EventWindow((1, 3, 4, 5), 1)
    layout = TreeLayout((6,), ((2, 1),), attach=((6, 3),), windows=(window,))
    assert layout.dense_mask().int().tolist() == expected


@settings(max_examples=60, deadline=None)
@given(layout=windowed())
def test_segments_say_what_the_mask_says(layout: TreeLayout) -> None:
    seen_TT = torch.zeros_like(layout.dense_mask())
    trunks = [piece.start for piece in layout.pieces() if piece.branch == 0]
    for segment, seen in layout.segments():
        rows = slice(segment.start, segment.start + segment.length)
        seen_TT[rows, rows] = torch.ones(segment.length, segment.length).tril().bool()
        for first, stop in seen:
            seen_TT[rows, trunks[segment.tree] + first : trunks[segment.tree] + stop] = True
    assert torch.equal(seen_TT, layout.dense_mask())
    assert layout.attention_pairs == int(seen_TT.sum())


@settings(max_examples=60, deadline=None)
@given(layout=windowed())
def test_flex_runs_say_what_the_mask_says(layout: TreeLayout) -> None:
    T = layout.n_tokens
    keys_T = torch.arange(T)
    runs_RT = torch.from_numpy(key_runs(layout))[:, :, :T, None]
    seen_TT = ((keys_T >= runs_RT[:, 0]) & (keys_T < runs_RT[:, 1])).any(0)
    assert torch.equal(seen_TT, layout.dense_mask())


@settings(max_examples=30, deadline=None)
@given(layout=windowed())
def test_merged_parts_equal_the_dense_mask(layout: TreeLayout) -> None:
    tensors = [x.requires_grad_() for x in row(layout)]
    ours, theirs = merge_attention(*tensors, layout, SCALING), dense(layout, tensors)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(ours, tensors, weights.double())
    for a, b in zip(got, torch.autograd.grad(theirs, tensors, weights.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(layout=windowed(), share=st.floats(0, 1))
def test_a_cached_trunk_changes_nothing(layout: TreeLayout, share: float) -> None:
    cached = tuple(int(share * trunk) for trunk in layout.trunk_lengths)
    if sum(cached) == layout.n_tokens:
        return
    tensors = row(layout)
    in_row = torch.ones(layout.n_tokens, dtype=torch.bool)
    past = []
    for piece in layout.pieces():
        if piece.branch == 0:
            tokens = slice(piece.start, piece.start + cached[piece.tree])
            in_row[tokens] = False
            past.append((tensors[1][0, :, tokens], tensors[2][0, :, tokens]))
    rest = [x[:, :, in_row] for x in tensors]
    got = merge_attention(*rest, replace(layout, cached_lengths=cached), SCALING, past)
    torch.testing.assert_close(got, dense(layout, tensors)[:, in_row], rtol=0, atol=1e-10)


# A whole model over a history of events, with a question behind it.

PROFILE, EVENT, N_EVENTS, QUESTION, N = 4, 3, 9, 2, 4
TRUNK = PROFILE + N_EVENTS * EVENT
STARTS = tuple(range(PROFILE, TRUNK, EVENT))
L1 = TreeLayout((TRUNK,), ((QUESTION,),))
L1W = replace(L1, windows=(EventWindow(STARTS, N),))


def decoder(layers: int) -> LlamaForCausalLM:
    register()
    config = LlamaConfig(**{**SIZES, "num_hidden_layers": layers})
    config._attn_implementation = "brewhouse_tree"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LlamaForCausalLM(config).eval().double()


def logits(
    layers: int,
    layout: TreeLayout,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    rates_T: torch.Tensor | None = None,
) -> torch.Tensor:
    model = decoder(layers)
    rates_T = torch.zeros(layout.n_tokens) if rates_T is None else rates_T
    with KeepDouble(), torch.no_grad(), forgetting(model, rates_T):
        return label_logits(model, tokens_T, positions_T, layout, torch.arange(layout.n_tokens))


def difference_to_sliding_prompts(layers: int, rates_T: torch.Tensor | None = None) -> float:
    """Of L1w to one prompt for each event and for the question, over the n events before it.

    Each prompt keeps the positions of the whole history: relative distances are what rotary
    embeddings see.
    """
    tokens_T = random_tokens(L1W)
    rates_T = torch.zeros(L1W.n_tokens) if rates_T is None else rates_T
    windowed_TV = logits(layers, L1W, tokens_T, L1W.positions(), rates_T)
    worst = 0.0
    targets = [(start, start + EVENT) for start in STARTS] + [(TRUNK, TRUNK + QUESTION)]
    for number, (start, stop) in enumerate(targets):
        window_start = (*STARTS, TRUNK)[max(0, number - N)]
        kept = torch.cat([torch.arange(PROFILE), torch.arange(window_start, stop)])
        prompt = TreeLayout((len(kept),), ((),))
        alone_TV = logits(layers, prompt, tokens_T[kept], kept, rates_T[kept])[start - stop :]
        worst = max(worst, (windowed_TV[start:stop] - alone_TV).abs().max().item())
    return worst


def test_one_layer_equals_sliding_prompts() -> None:
    assert difference_to_sliding_prompts(layers=1) < 1e-9


def test_more_layers_leak() -> None:
    """Not exact: states that a query sees were computed from events outside its window."""
    assert difference_to_sliding_prompts(layers=2) > 0.01
    assert difference_to_sliding_prompts(layers=3) > 0.01


def test_events_that_forget_all_leak_nothing() -> None:
    rates_T = torch.zeros(L1W.n_tokens)
    rates_T[PROFILE:TRUNK] = 1
    assert difference_to_sliding_prompts(layers=3, rates_T=rates_T) < 1e-9
    rates_T[PROFILE:TRUNK] = 0.9
    assert difference_to_sliding_prompts(layers=3, rates_T=rates_T) > 1e-3


def test_forgetting_changes_nothing_at_rate_0_or_afterwards() -> None:
    model, tokens_T, everywhere = decoder(3), random_tokens(L1W), torch.arange(L1W.n_tokens)
    with torch.no_grad():
        before = label_logits(model, tokens_T, L1W.positions(), L1W, everywhere)
        with forgetting(model, torch.zeros(L1W.n_tokens)):
            during = label_logits(model, tokens_T, L1W.positions(), L1W, everywhere)
        with forgetting(model, linear_rates(L1W, 1.0)):
            other = label_logits(model, tokens_T, L1W.positions(), L1W, everywhere)
        after = label_logits(model, tokens_T, L1W.positions(), L1W, everywhere)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert (before - other).abs().max() > 0.01


def test_forgetting_has_gradients_also_with_checkpointing() -> None:
    tokens_T, gradients = random_tokens(L1W), []
    for checkpointed in (False, True):
        model = decoder(3).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with forgetting(model, linear_rates(L1W, 0.7)):
            label_logits(
                model, tokens_T, L1W.positions(), L1W, torch.tensor([L1W.n_tokens - 1])
            ).sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


def test_linear_rates_by_hand() -> None:
    layout = TreeLayout((1 + 4, 2), ((2,), (1,)), windows=(EventWindow((1, 2, 3, 4), 2), None))
    expected = [0, 0.8, 0.8, 0.4, 0, 0, 0, 0, 0, 0]  # profile, four events, branch; another tree
    assert linear_rates(layout, 0.8).tolist() == pytest.approx(expected)


def test_rates_outside_0_to_1_are_refused() -> None:
    with (
        pytest.raises(ValueError, match="forgets between 0"),
        forgetting(decoder(1), torch.tensor([0.5, 1.2])),
    ):
        pass


@pytest.mark.parametrize("layers", [1, 3])
def test_a_window_is_not_the_whole_history(layers: int) -> None:
    tokens, positions = random_tokens(L1), L1.positions()
    whole = logits(layers, L1, tokens, positions)
    cut = logits(layers, L1W, tokens, positions)
    first_cut = STARTS[N + 1]
    torch.testing.assert_close(whole[:first_cut], cut[:first_cut], rtol=0, atol=1e-9)
    assert (whole - cut)[-1].abs().max() > 0.01


def test_a_window_over_all_events_is_exact() -> None:
    tokens, positions = random_tokens(L1), L1.positions()
    wide = replace(L1, windows=(EventWindow(STARTS, N_EVENTS),))
    torch.testing.assert_close(
        logits(3, wide, tokens, positions), logits(3, L1, tokens, positions), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("starts", "size", "message"),
    [
        ((1, 3), 0, "a window of 0 events shows no history"),
        ((), 2, "needs the trunk positions"),
        ((-1, 3), 2, "needs the trunk positions"),
        ((3, 3), 2, "must grow"),
    ],
)
def test_an_impossible_window_is_refused(starts: tuple[int, ...], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EventWindow(starts, size)


def test_windows_that_do_not_fit_the_trees_are_refused() -> None:
    with pytest.raises(ValueError, match="one window, or None, for every tree"):
        TreeLayout((6, 2), ((), ()), windows=(None,))
    with pytest.raises(ValueError, match="tree 0 has an event that starts at token 6 of a trunk"):
        TreeLayout((6,), ((),), windows=(EventWindow((2, 6), 1),))
