"""FlexAttention over a row of trees equals the dense mask; its block mask is torch's own."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import build, forests, random_tokens
from torch.nn.attention.flex_attention import create_block_mask

from modeling import tree_attention
from modeling.exactness import KeepDouble, one_prompt_each
from modeling.label_scores import label_logits
from modeling.tree_kernels import flex
from modeling.tree_layout import TreeLayout
from modeling.tree_windows import EventWindow

CPU = torch.device("cpu")
SCALING = 0.3
STARTS = tuple(range(40, 500, 11))


@functools.cache
def graphs_and_kernel() -> tuple[list[torch.fx.GraphModule], Callable[..., torch.Tensor]]:
    """`flex_row` captured as on CUDA, run without a code generator; and each capture of it."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    return graphs, torch.compile(flex.flex_row, fullgraph=True, backend=keep)


def row(
    layout: TreeLayout, heads: int = 4, key_heads: int = 2, width: int = 8
) -> list[torch.Tensor]:
    """Query, key and value with the strides that a model's projections have."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, layout.n_tokens, n, width, generator=generator).transpose(1, 2)
        for n in (heads, key_heads, key_heads)
    ]


def flexed(
    layout: TreeLayout, tensors: Sequence[torch.Tensor], past: object = None
) -> torch.Tensor:
    kernel = graphs_and_kernel()[1]
    return flex.flex_attention(*tensors, layout, SCALING, past, kernel=kernel)  # type: ignore[arg-type]


def dense(layout: TreeLayout, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    out = F.scaled_dot_product_attention(
        *tensors, attn_mask=layout.dense_mask(), scale=SCALING, enable_gqa=True
    )
    return out.transpose(1, 2)


def assert_equal(layout: TreeLayout, **shape: int) -> None:
    tensors = row(layout, **shape)
    torch.testing.assert_close(flexed(layout, tensors), dense(layout, tensors), rtol=0, atol=1e-5)


BRANCHES = st.lists(st.tuples(st.integers(1, 90), st.integers(0, 200)), max_size=5)
TREES = st.lists(st.tuples(st.integers(0, 200), BRANCHES), min_size=1, max_size=3).filter(
    lambda trees: any(trunk or branches for trunk, branches in trees)
)


def layout_of(trees: list[tuple[int, list[tuple[int, int]]]]) -> TreeLayout:
    return TreeLayout(
        tuple(trunk for trunk, _ in trees),
        tuple(tuple(length for length, _ in branches) for _, branches in trees),
        tuple(tuple(min(point, trunk) for _, point in branches) for trunk, branches in trees),
    )


@settings(max_examples=20, deadline=None)
@given(trees=TREES)
def test_any_row_equals_the_dense_mask(trees: list[tuple[int, list[tuple[int, int]]]]) -> None:
    assert_equal(layout_of(trees))


@pytest.mark.parametrize(
    "layout",
    [
        TreeLayout((1,), ((),)),
        TreeLayout((40,), ((1,) * 1000,)),
        TreeLayout((0,), ((7,) * 40,)),
        TreeLayout((5, 0, 0), ((200, 2, 140), (), (1,))),
        TreeLayout((128,), ((128, 128),)),
        TreeLayout((300,), ((9,) * 20,), attach=((0, 300, 127, 128, 129) * 4,)),
        TreeLayout((500, 9), ((9,) * 20, (3,)), windows=(EventWindow(STARTS, 12), None)),
    ],
    ids=["1 token", "1000 branches", "no trunk", "long branches", "blocks", "attached", "window"],
)
def test_a_row_equals_the_dense_mask(layout: TreeLayout) -> None:
    assert_equal(layout)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (9, 3), (3, 1)])
def test_heads_share_keys(heads: int, key_heads: int) -> None:
    layout = TreeLayout((100, 30), ((20, 40), (10,)))
    assert_equal(layout, heads=heads, key_heads=key_heads)


def test_a_different_scaling_shows() -> None:
    layout = TreeLayout((100,), ((20, 40),))
    tensors = row(layout)
    kernel = graphs_and_kernel()[1]
    other = flex.flex_attention(*tensors, layout, 2 * SCALING, kernel=kernel)
    assert (other - dense(layout, tensors)).abs().max() > 0.1


# The mask.


def torch_mask(layout: TreeLayout, runs_R2Q: np.ndarray, n_keys: int) -> torch.Tensor:
    runs = torch.from_numpy(runs_R2Q)

    def sees(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        in_runs = [(k >= first_Q[q]) & (k < end_Q[q]) for first_Q, end_Q in runs]
        return functools.reduce(torch.logical_or, in_runs)

    return create_block_mask(sees, None, None, runs_R2Q.shape[2], n_keys, device="cpu")


@settings(max_examples=20, deadline=None)
@given(trees=TREES)
def test_blocks_are_those_that_torch_finds(
    trees: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    layout = layout_of(trees)
    runs_R2Q = flex.key_runs(layout)
    blocks = flex.flex_plan(layout, CPU).blocks
    theirs = torch_mask(layout, runs_R2Q, runs_R2Q.shape[2])
    for field in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(blocks, f"{field}_num_blocks")
        assert torch.equal(counts, getattr(theirs, f"{field}_num_blocks")), field
        ours, expected = (getattr(x, f"{field}_indices") for x in (blocks, theirs))
        for block, count in enumerate(counts[0, 0].tolist()):
            assert ours[0, 0, block, :count].tolist() == expected[0, 0, block, :count].tolist()


@settings(max_examples=100, deadline=None)
@given(layout=forests())
def test_blocks_by_brute_force(layout: TreeLayout) -> None:
    """In small blocks, where a single query or key decides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "BLOCK", 4)
        runs_R2Q = flex.key_runs(layout)
        n_keys = runs_R2Q.shape[2]
        some_MN, whole_MN = flex.block_tables(runs_R2Q, n_keys // 4)
    keys_K = np.arange(n_keys)
    first_RQ1, end_RQ1 = runs_R2Q[:, 0, :, None], runs_R2Q[:, 1, :, None]
    sees_QK = ((keys_K >= first_RQ1) & (keys_K < end_RQ1)).any(axis=0)
    sees_MN = sees_QK.reshape(n_keys // 4, 4, n_keys // 4, 4)
    np.testing.assert_array_equal(some_MN, sees_MN.any(axis=(1, 3)))
    np.testing.assert_array_equal(whole_MN, sees_MN.all(axis=(1, 3)))


def test_only_blocks_with_something_to_see_are_visited() -> None:
    layout = TreeLayout((1280,) * 4, ((128,) * 10,) * 4)
    blocks = flex.flex_plan(layout, CPU).blocks
    partial, whole = blocks.kv_num_blocks.sum().item(), blocks.full_kv_num_blocks.sum().item()
    assert partial == 4 * (10 + 10), "the diagonals of trunks and branches"
    assert whole == 4 * (10 * 9 // 2 + 10 * 10), "a trunk's past, and the trunk before each branch"


def test_the_plan_is_made_once() -> None:
    layout = TreeLayout((9,), ((4, 4),))
    assert flex.flex_plan(layout, CPU) is flex.flex_plan(layout, CPU)


def test_no_table_has_the_size_of_the_mask() -> None:
    layout = TreeLayout((6000,), ((100,) * 40,))
    plan = flex.flex_plan(layout, CPU)
    tables = [*plan.blocks, *(table for run in plan.runs for table in run)]
    assert max(table.numel() for table in tables) < 2 * layout.n_tokens


# Compilation.


def test_one_capture_serves_rows_of_all_lengths() -> None:
    graphs, _ = graphs_and_kernel()
    assert_equal(TreeLayout((70,), ((20, 40),)), width=12)
    before = len(graphs)
    for layout in (
        TreeLayout((1,), ((),)),
        TreeLayout((300, 20), ((20,) * 30, (7,)), attach=((50,) * 30, (3,))),
        TreeLayout((1100,), ((33,) * 5,)),
        TreeLayout((1920,), ((),)),
    ):
        assert_equal(layout, width=12)
    assert len(graphs) == before


def test_a_compiled_kernel_knows_that_no_block_is_cut() -> None:
    graphs, _ = graphs_and_kernel()
    assert_equal(TreeLayout((70,), ((20, 40),)), width=20)
    shapes = [
        tuple(node.meta["example_value"].shape)
        for node in graphs[-1].graph.nodes
        if node.op == "placeholder" and getattr(node.meta.get("example_value"), "ndim", 0) == 5
    ]
    assert len(shapes) == 3
    for _, _, blocks, block, width in shapes:
        assert isinstance(blocks, torch.SymInt)
        assert (block, width) == (128, 20)


def test_gradients_are_those_of_the_dense_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch refuses a backward pass on CPU for want of a kernel; its formula is there."""
    module = torch.nn.attention.flex_attention
    options = module._apply_kernel_options

    def with_lse(*args: object, **kwargs: object) -> dict[str, object]:
        return {**options(*args, **kwargs), "OUTPUT_LOGSUMEXP": True}

    monkeypatch.setattr(module, "_validate_device", lambda *_: None)
    monkeypatch.setattr(module, "_apply_kernel_options", with_lse)
    kernel = torch.compile(flex.flex_row, fullgraph=True, backend="aot_eager")
    layout = TreeLayout((150, 0, 3), ((3, 90, 1), (4, 2), ()), attach=((150, 40, 0), (0, 0), ()))
    tensors = [x.requires_grad_() for x in row(layout)]
    ours = flex.flex_attention(*tensors, layout, SCALING, kernel=kernel)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(ours, tensors, weights)
    expected = torch.autograd.grad(dense(layout, tensors), tensors, weights)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


# Cached trunks.


@settings(max_examples=20, deadline=None)
@given(trees=TREES, shares=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_cached_trunk_changes_nothing(
    trees: list[tuple[int, list[tuple[int, int]]]], shares: list[float]
) -> None:
    whole = layout_of(trees)
    cached = tuple(
        int(share * trunk) for share, trunk in zip(shares, whole.trunk_lengths, strict=False)
    )
    if sum(cached) == whole.n_tokens:  # nothing would be left to ask
        return
    layout = TreeLayout(whole.trunk_lengths, whole.branch_lengths, whole.attach, cached)
    tensors = row(whole)
    in_row = torch.ones(whole.n_tokens, dtype=torch.bool)
    past: list[tuple[torch.Tensor, torch.Tensor] | None] = []
    for piece in whole.pieces():
        if piece.branch == 0:
            tokens = slice(piece.start, piece.start + cached[piece.tree])
            in_row[tokens] = False
            past.append((tensors[1][0, :, tokens], tensors[2][0, :, tokens]))
    past = [states if n else None for states, n in zip(past, cached, strict=True)]
    got = flexed(layout, [x[:, :, in_row] for x in tensors], past)
    torch.testing.assert_close(got, dense(whole, tensors)[:, in_row], rtol=0, atol=1e-5)


def test_missing_states_are_an_error() -> None:
    layout = TreeLayout((9, 5), ((4,), (3,)), cached_lengths=(0, 5))
    with pytest.raises(ValueError, match="tree 1 has a cached trunk, and no states"):
        flexed(layout, row(layout))
    with pytest.raises(ValueError, match="tree 1 has a cached trunk, and no states"):
        flexed(layout, row(layout), [None, None])


# A whole model, and what is served.


@pytest.mark.parametrize("name", ["qwen3", "smollm2"])
def test_a_model_through_flex_equals_one_prompt_per_target(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = TreeLayout((7, 0, 30), ((3, 9, 2), (4, 2), (140,)), ((7, 2, 0), (0, 0), (30,)))
    model, tokens_T = build(name).double(), random_tokens(layout)
    monkeypatch.setattr(tree_attention, "flex_serves", lambda query: True)
    monkeypatch.setattr(flex, "_compiled", lambda: graphs_and_kernel()[1])
    with KeepDouble(), torch.no_grad():
        ours = label_logits(model, tokens_T, layout.positions(), layout, torch.arange(197))
        monkeypatch.undo()
        assert ("flex", CPU) in layout.state.plans
        theirs = one_prompt_each(model, tokens_T, layout)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_cpu_is_not_served() -> None:
    assert not flex.flex_serves(torch.zeros(1, 2, 5, 64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_the_compiled_kernel_equals_the_dense_mask(dtype: torch.dtype, tolerance: float) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    for layout in (
        TreeLayout((300, 40), ((20,) * 9, (7,)), attach=((50,) * 9, (3,))),
        TreeLayout((1100,), ((33,) * 50,)),
    ):
        tensors = [
            x.to("cuda", dtype).requires_grad_()
            for x in row(layout, heads=9, key_heads=3, width=64)
        ]
        assert flex.flex_serves(tensors[0])
        ours = flex.flex_attention(*tensors, layout, SCALING)
        exact = [x.detach().double().cpu().requires_grad_() for x in tensors]
        theirs = dense(layout, exact)
        torch.testing.assert_close(ours.double().cpu(), theirs, rtol=0, atol=tolerance)
        weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
        got = torch.autograd.grad(ours, tensors, weights.to("cuda", dtype))
        expected = torch.autograd.grad(theirs, exact, weights.double())
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a.double().cpu(), b, rtol=10 * tolerance, atol=tolerance)
