"""Packing is exact: a tree gives the logits and gradients of one prompt per target."""

import pytest
import torch
from hypothesis import given, settings
from tiny_decoders import CONFIGS, FOREST, SIZES, V, build, forests, random_tokens
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from modeling.backbone import use_fp32_head
from modeling.exactness import KeepDouble, one_prompt_each, packing_differences
from modeling.label_scores import label_logits
from modeling.tree_attention import register, tree_attention
from modeling.tree_kernels import merge
from modeling.tree_layout import TreeLayout


def packed(model: PreTrainedModel, tokens_T: torch.Tensor, layout: TreeLayout) -> torch.Tensor:
    everywhere = torch.arange(layout.n_tokens)
    return label_logits(model, tokens_T, layout.positions(), layout, everywhere)


def gradients(
    model: PreTrainedModel, logits_TV: torch.Tensor, labels_T: torch.Tensor
) -> list[torch.Tensor]:
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum").backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def largest_differences(name: str, layout: TreeLayout, dtype: torch.dtype) -> tuple[float, float]:
    """Of logits and of parameter gradients, packed against one prompt per target."""
    model = build(name).to(dtype)
    differences = packing_differences(
        model, layout, random_tokens(layout), random_tokens(layout, seed=1)
    )
    return differences.logits, differences.gradients


def test_the_reference_is_stock_prompts() -> None:
    layout, model = TreeLayout((3, 0), ((2, 1), (4,))), build("llama", "sdpa").double()
    tokens_T = random_tokens(layout)
    a, b, c, d, e, f, g, h, i, j = tokens_T.tolist()
    with KeepDouble(), torch.no_grad():
        first, second, third = (
            model(torch.tensor([prompt])).logits[0]
            for prompt in ([a, b, c, d, e], [a, b, c, f], [g, h, i, j])
        )
        got_TV = one_prompt_each(model, tokens_T, layout)
    torch.testing.assert_close(got_TV, torch.cat([first, second[3:], third]), rtol=0, atol=1e-12)


def test_every_parameter_is_compared() -> None:
    model = build("mixtral")
    gradients(model, packed(model, random_tokens(FOREST), FOREST), random_tokens(FOREST))
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_a_packed_forest_equals_one_prompt_per_target(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    logits, grads = largest_differences(name, FOREST, dtype)
    assert logits < tolerance
    assert grads < tolerance * (1 if dtype == torch.float64 else 10)  # sums over the whole row


@settings(max_examples=20, deadline=None)
@given(layout=forests())
@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral"])
def test_any_forest_is_exact(name: str, layout: TreeLayout) -> None:
    logits, grads = largest_differences(name, layout, torch.float64)
    assert logits < 1e-9
    assert grads < 1e-9


@pytest.mark.parametrize(
    "layout",
    [
        TreeLayout((40,), ((3,) * 1000,)),
        TreeLayout((5,), ((200, 2, 140, 1, 127, 1),)),
        TreeLayout((0,), ((7,) * 40,)),
        TreeLayout((50,), ((9,),)),
        TreeLayout((30,), ((4,) * 31,), (tuple(range(31)),)),
    ],
    ids=["many branches", "long branches", "no trunk", "one branch", "one at each token"],
)
def test_extreme_trees_are_exact(layout: TreeLayout) -> None:
    logits, grads = largest_differences("llama", layout, torch.float64)
    assert logits < 1e-9
    assert grads < 1e-8  # sums over up to 3,000 tokens


def test_a_trunk_supervised_along_its_way_equals_growing_prompts() -> None:
    """Layout L1: what is said behind an event is what its own prompt would say."""
    layout, model = TreeLayout((24,), ((),)), build("llama").double()
    tokens_T, stock = random_tokens(layout), build("llama", "sdpa").double()
    with KeepDouble(), torch.no_grad():
        ours_TV = packed(model, tokens_T, layout)
        growing_TV = torch.stack([stock(tokens_T[None, : n + 1]).logits[0, -1] for n in range(24)])
    torch.testing.assert_close(ours_TV, growing_TV, rtol=0, atol=1e-9)


def test_nothing_sees_what_comes_later() -> None:
    """A token changed anywhere moves no logits but those that its layout lets see it."""
    layout = TreeLayout((9, 4), ((3, 4, 2), (5,)), ((9, 5, 2), (4,)))
    tokens_T, model = random_tokens(layout), build("llama").double()
    sees_TT = layout.dense_mask()
    with KeepDouble(), torch.no_grad():
        before_TV = packed(model, tokens_T, layout)
        for place in range(layout.n_tokens):
            edited_T = tokens_T.clone()
            edited_T[place] = (edited_T[place] + 1) % V
            moved_T = (packed(model, edited_T, layout) - before_TV).abs().amax(1) > 1e-12
            assert torch.equal(moved_T, sees_TT[:, place]), place


def test_bf16_rounds_no_more_than_one_prompt_per_target_does() -> None:
    layout = TreeLayout((60,), ((8,) * 64,))
    tokens_T = random_tokens(layout)
    rounded, exact = build("llama").to(torch.bfloat16), build("llama").to(torch.bfloat16).double()
    use_fp32_head(rounded)
    with torch.no_grad():
        truth = one_prompt_each(exact, tokens_T, layout)
        ours, single = (
            (logits - truth).abs()
            for logits in (
                packed(rounded, tokens_T, layout),
                one_prompt_each(rounded, tokens_T, layout),
            )
        )
    assert single.mean() > 1e-3, "bf16 does round"
    assert ours.mean() < 1.1 * single.mean()
    assert ours.max() < 1.5 * single.max()


def test_the_models_own_scaling_is_kept() -> None:
    model = build("llama").double()
    for layer in model.model.layers:
        layer.self_attn.scaling = 1.3
    tokens_T = random_tokens(FOREST)
    assert packing_differences(model, FOREST, tokens_T, tokens_T).logits < 1e-9


def test_dense_reference_equals_tree_attention() -> None:
    model, dense = build("qwen3").double(), build("qwen3", "brewhouse_dense").double()
    tokens_T = random_tokens(FOREST)
    with KeepDouble(), torch.no_grad():
        ours, theirs = packed(model, tokens_T, FOREST), packed(dense, tokens_T, FOREST)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_gradient_checkpointing_changes_nothing() -> None:
    tokens_T, labels_T = random_tokens(FOREST), random_tokens(FOREST, seed=1)
    plain, checkpointed = build("llama").train(), build("llama").train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    expected = gradients(plain, packed(plain, tokens_T, FOREST), labels_T)
    uses = FOREST.uses
    got = gradients(checkpointed, packed(checkpointed, tokens_T, FOREST), labels_T)
    assert FOREST.uses - uses == 2 * 3, "three layers, each computed again in the backward pass"
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


# What must break equality, and does.


def test_without_position_reset_equality_breaks() -> None:
    model, tokens_T = build("llama").double(), random_tokens(FOREST)
    positions_T = torch.arange(FOREST.n_tokens)
    with KeepDouble(), torch.no_grad():
        right = one_prompt_each(build("llama", "sdpa").double(), tokens_T, FOREST)
        wrong = label_logits(model, tokens_T, positions_T, FOREST, positions_T)
    assert (right - wrong).abs().max() > 0.1


def test_without_isolation_equality_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_branch_of_all(layout: TreeLayout, device: torch.device) -> object:
        joined = tuple((sum(lengths),) if lengths else () for lengths in layout.branch_lengths)
        return plan(TreeLayout(layout.trunk_lengths, joined), device)

    plan = merge._plan
    monkeypatch.setattr(merge, "_plan", one_branch_of_all)
    layout = TreeLayout(FOREST.trunk_lengths, FOREST.branch_lengths)  # a new one: plans are kept
    logits, grads = largest_differences("llama", layout, torch.float64)
    assert logits > 0.1
    assert grads > 0.1


def test_seeing_past_the_attach_point_breaks_equality() -> None:
    layout = TreeLayout((9,), ((3, 4),), ((5, 2),))
    whole = TreeLayout((9,), ((3, 4),))
    tokens_T, model = random_tokens(layout), build("llama")
    with torch.no_grad():
        right = one_prompt_each(build("llama", "sdpa"), tokens_T, layout)
        wrong = label_logits(model, tokens_T, layout.positions(), whole, torch.arange(16))
    assert (right - wrong).abs().max() > 0.1


def test_without_isolation_of_trees_equality_breaks() -> None:
    joined = TreeLayout((12,), ((4,),))
    apart = TreeLayout((5, 7), ((), (4,)))
    tokens_T = random_tokens(apart)
    model = build("llama")
    with torch.no_grad():
        right = one_prompt_each(build("llama", "sdpa"), tokens_T, apart)
        wrong = label_logits(model, tokens_T, apart.positions(), joined, torch.arange(16))
    assert (right - wrong).abs().max() > 0.1


# Branches do not know of each other.


def test_permuting_branches_permutes_their_logits() -> None:
    lengths = (3, 9, 2, 5)
    order = [2, 0, 3, 1]
    layout = TreeLayout((6,), (lengths,))
    shuffled = TreeLayout((6,), (tuple(lengths[i] for i in order),))
    tokens_T = random_tokens(layout)
    trunk, *branches = torch.arange(layout.n_tokens).split([6, *lengths])
    rows = torch.cat([trunk, *(branches[i] for i in order)])
    model = build("qwen3").double()
    with KeepDouble(), torch.no_grad():
        ours, permuted = packed(model, tokens_T, layout), packed(model, tokens_T[rows], shuffled)
    torch.testing.assert_close(permuted, ours[rows], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_editing_a_branch_leaves_all_else_bit_equal(name: str) -> None:
    layout = TreeLayout((6, 4), ((3, 9, 2), (5, 5)))
    tokens_T = random_tokens(layout)
    edited_T = tokens_T.clone()
    edited_T[9:18] = (edited_T[9:18] + 1) % V  # the second branch of the first tree
    with torch.no_grad():
        before, after = packed(build(name), tokens_T, layout), packed(build(name), edited_T, layout)
    others = torch.ones(layout.n_tokens, dtype=torch.bool)
    others[9:18] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[9:18], after[9:18])


# Without a layout the model is a stock one.


@pytest.mark.parametrize("name", CONFIGS)
def test_plain_calls_are_stock_attention(name: str) -> None:
    ours, stock = build(name), build(name, "sdpa")
    tokens = torch.randint(1, V, (2, 14), generator=torch.Generator().manual_seed(0))
    padding = torch.ones_like(tokens)
    padding[0, :5] = 0
    with torch.no_grad():
        assert torch.equal(ours(tokens).logits, stock(tokens).logits)
        padded = (model(tokens, attention_mask=padding).logits for model in (ours, stock))
        torch.testing.assert_close(*(logits[0, 5:] for logits in padded))
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
        "attention_mask": padding,
    }
    assert torch.equal(ours.generate(tokens, **options), stock.generate(tokens, **options))


# What cannot be exact is refused.


def forward(model: PreTrainedModel, layout: TreeLayout, **kwargs: object) -> None:
    model(
        input_ids=random_tokens(layout)[None],
        position_ids=layout.positions()[None],
        tree_layout=layout,
        **{"use_cache": False, **kwargs},
    )


def test_misuse_of_a_layout_is_refused() -> None:
    model, layout = build("llama"), TreeLayout((4,), ((2, 3),))
    with pytest.raises(ValueError, match="one row of 9 tokens, but LlamaAttention got 1 rows of 8"):
        model(input_ids=torch.zeros(1, 8, dtype=torch.long), tree_layout=layout, use_cache=False)
    with pytest.raises(ValueError, match="exclude each other"):
        forward(model, layout, attention_mask=torch.tensor([[0] + [1] * 8]))
    cache = model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cannot be used with a key-value cache"):
        forward(model, layout, past_key_values=cache, use_cache=True)


def test_attention_dropout_is_refused_in_training_only() -> None:
    model, layout = build("llama"), TreeLayout((4,), ((2, 3),))
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    forward(model, layout)
    with pytest.raises(ValueError, match=r"set config\.attention_dropout to 0"):
        forward(model.train(), layout)


def test_a_window_is_refused_only_where_it_would_cut() -> None:
    config = MixtralConfig(**SIZES, num_local_experts=2, sliding_window=9)
    register()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="brewhouse_tree").eval()
    fits, cut = TreeLayout((6, 6), ((3, 3), (2,))), TreeLayout((6,), ((4, 1),))
    forward(model, fits)
    with pytest.raises(
        ValueError, match="window of 9 tokens, and the longest trunk with branch has 10"
    ):
        forward(model, cut)
    with pytest.raises(ValueError, match="sliding window of 9 tokens and this row has 12"):
        model(input_ids=torch.zeros(1, 12, dtype=torch.long), use_cache=False)


def test_another_formula_is_refused() -> None:
    layer = build("llama").model.layers[0].self_attn
    x = torch.zeros(1, 4, 9, 6)
    for name in ("softcap", "s_aux", "position_bias"):
        with pytest.raises(ValueError, match=f"computes attention with {name}"):
            tree_attention(
                layer, x, x, x, None, tree_layout=TreeLayout((4,), ((2, 3),)), **{name: 1.0}
            )


def test_a_model_that_drops_the_layout_is_noticed() -> None:
    model, layout = build("llama", "sdpa"), TreeLayout((4,), ((2, 3),))
    with pytest.raises(ValueError, match="did not hand `tree_layout` to its attention layers"):
        packed(model, random_tokens(layout), layout)
