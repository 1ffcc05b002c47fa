"""The engine's scores are those of one prompt per branch, whatever it remembers of earlier ones."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_decoders
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import V
from transformers import PreTrainedModel

import modeling.scoring as scoring
from modeling.backbone import build_backbone, use_fp32_head
from modeling.exactness import KeepDouble
from modeling.lora import add_lora
from modeling.scoring import Branch, Request, Score, Scorer, ranked
from modeling.shape import ModelShape

NAMES = ("llama", "qwen3", "mixtral")


def build(
    name: str = "llama",
    dtype: torch.dtype = torch.float32,
    implementation: str = "brewhouse_tree",
) -> PreTrainedModel:
    return tiny_decoders.build(name, implementation).to(dtype).eval()


@torch.no_grad()
def one_by_one(model: PreTrainedModel, request: Request) -> list[Score]:
    """The naive reference: a whole prompt each, full logits, stock attention."""
    scores = []
    for branch in request.branches:
        prompt = torch.tensor([[*request.trunk, *branch.tokens]])
        p_V = model(prompt).logits[0, -1].double().softmax(-1)
        p_C = p_V[list(branch.choices)].numpy()
        scores.append(Score(p_C / p_C.sum(), float(p_C.sum())))
    return scores


def assert_equal(got: list[Score], expected: list[Score], tolerance: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.probabilities_C, b.probabilities_C, rtol=0, atol=tolerance)
        assert a.label_mass == pytest.approx(b.label_mass, abs=tolerance)
        assert a.probabilities_C.dtype == np.float64


def ids(n: int, seed: int) -> list[int]:
    return np.random.Generator(np.random.Philox(key=[seed, 0])).integers(0, V, n).tolist()


def branches(n: int, seed: int = 0, longest: int = 9) -> list[Branch]:
    lengths = np.random.Generator(np.random.Philox(key=[seed, 1])).integers(1, longest, n)
    return [Branch(ids(length, 100 * seed + k), [3, 5 + k % 9]) for k, length in enumerate(lengths)]


# Each request: which of a few trunks it begins as, where it leaves that one, what follows, and its
# branches. So sequences repeat, extend and leave what was asked before.
REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 60),
        st.integers(0, 20),
        st.integers(0, 4),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=12, deadline=None)
@given(calls=st.lists(REQUESTS, min_size=1, max_size=3), room=st.integers(12, 90))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", NAMES)
def test_any_requests_are_answered_exactly(
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    calls: list[list[tuple[int, int, int, int, int]]],
    room: int,
) -> None:
    model = build(name, dtype)
    # Room for some 150 tokens: trunks come and go.
    token_bytes = 2 * 3 * 2 * (10 if name == "qwen3" else 6) * dtype.itemsize
    scorer = Scorer(model, cache_bytes=150 * token_bytes, max_tokens=room)
    with KeepDouble():
        for call in calls:
            requests = [
                Request(ids(60, start)[:shared] + ids(more, 9 + seed), branches(n, seed))
                for start, shared, more, n, seed in call
            ]
            for request, scores in zip(requests, scorer.score(requests), strict=True):
                assert_equal(scores, one_by_one(model, request), tolerance)
            assert scorer.cache.statistics.bytes <= 150 * token_bytes


def test_what_is_held_is_not_read_again() -> None:
    model, rows = build(), []
    scorer = Scorer(model)
    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    trunk = ids(50, 0)
    for tokens in (trunk, trunk, [*trunk, 1, 2, 3], [*trunk[:40], 9, *trunk[41:]], trunk[:30]):
        scorer.score([Request(tokens, [Branch([4, 5], [1, 2]), Branch([6], [1, 2])])])
    assert rows == [50 + 3, 0 + 3, 3 + 3, 10 + 3, 0 + 3]
    statistics = scorer.cache.statistics
    assert (statistics.hits, statistics.partial_hits, statistics.misses) == (2, 2, 1)


def test_users_and_tasks_share_passes() -> None:
    model, rows = build(), []
    scorer = Scorer(model, max_tokens=500)
    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    users = [Request(ids(30, user), branches(3, user, longest=3)) for user in range(4)]
    again = [Request(ids(30, user), branches(2, 7 + user, longest=3)) for user in range(4)]
    got = scorer.score([*users, *again])
    assert len(rows) == 1
    assert rows[0] <= 4 * 30 + 8 * 3 * 2, "two requests about one user are one tree"
    for request, scores in zip([*users, *again], got, strict=True):
        assert_equal(scores, one_by_one(model, request), 1e-4)


def test_a_trunk_longer_than_a_pass_is_read_in_several() -> None:
    model, rows = build(), []
    request = Request(ids(100, 0), branches(20))
    expected = one_by_one(model, request)
    scorer = Scorer(model, max_tokens=32, cache_bytes=0)
    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    [scores] = scorer.score([request])
    assert_equal(scores, expected, 1e-4)
    assert rows[:4] == [32, 32, 32, 4]
    assert max(rows) <= 32


def test_a_stream_takes_branches_as_it_needs_them() -> None:
    model, taken, rows = build(), [], []
    scorer = Scorer(model, max_tokens=60)

    def endless() -> Iterator[Branch]:
        while True:
            taken.append(len(taken))
            yield Branch(ids(10, len(taken)), [3, 4])

    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    stream = scorer.stream(Request(ids(30, 0), endless()))
    assert not taken
    for n in range(1, 400):
        next(stream)
        assert len(taken) <= n + 6, "those of a pass and one more"
    assert max(rows) <= 60


def test_a_stream_gives_what_score_gives() -> None:
    model, request = build(), Request(ids(30, 0), branches(70))
    streamed = list(Scorer(model, max_tokens=64).stream(request))
    assert_equal(streamed, one_by_one(model, request), 1e-4)


def test_logits_of_a_pass_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGITS_OF_A_PASS", 5 * V)
    model, largest = build(), []
    model.lm_head.register_forward_hook(lambda m, i, out: largest.append(out.numel()))
    request = Request(ids(30, 0), branches(33))
    assert_equal(Scorer(model).score([request])[0], one_by_one(model, request), 1e-4)
    assert max(largest[1:8]) == 5 * V


def test_equal_candidates_tie_and_say_so() -> None:
    model = build()
    asked = branches(12, longest=6)
    twins = [asked[k] for k in (0, 1, 2, 0, 3, 4, 0, 5, 2)]
    [scores] = Scorer(model).score([Request(ids(30, 0), twins)])
    places = ranked(scores)
    assert sorted(place.branch for place in places) == list(range(9))
    assert [p.probability for p in places] == sorted((p.probability for p in places), reverse=True)
    tied = {place.branch: place.tied for place in places}
    assert tied == {0: 2, 3: 2, 6: 2, 2: 1, 8: 1, 1: 0, 4: 0, 5: 0, 7: 0}
    assert [place.branch for place in places if place.branch in (0, 3, 6)] == [0, 3, 6]
    other = ranked(scores, choice=1)
    assert other[0].probability == max(score.probabilities_C[1] for score in scores)


def test_the_model_that_has_learned_is_asked_anew() -> None:
    model, request = build(), Request(ids(30, 0), branches(5))
    scorer = Scorer(model)
    scorer.score([request])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert_equal(scorer.score([request])[0], one_by_one(model, request), 1e-4)
    assert scorer.cache.statistics.misses == 2


def test_another_adapter_is_another_model() -> None:
    model, request = build(), Request(ids(30, 0), branches(5))
    adapted = add_lora(model, rank=4, alpha=64, seed=0).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    scorer = Scorer(adapted)
    [with_adapter] = scorer.score([request])
    assert_equal(with_adapter, one_by_one(adapted, request), 1e-4)
    with adapted.disable_adapter():
        [without] = scorer.score([request])
        assert_equal(without, one_by_one(adapted, request), 1e-4)
    assert (
        max(abs(a.label_mass - b.label_mass) for a, b in zip(with_adapter, without, strict=True))
        > 1e-3
    )
    assert scorer.cache.statistics.hits == 0


def test_one_prompt_per_branch_gives_the_same() -> None:
    requests = [Request(ids(30, user), branches(6, user), f"user {user}") for user in range(3)]
    stock = build(implementation="sdpa")
    for a, b in zip(
        Scorer(build()).score(requests), Scorer(stock, packed=False).score(requests), strict=True
    ):
        assert_equal(a, b, 1e-4)


def test_a_model_that_cannot_follow_trees_is_refused_with_a_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"did not hand `tree_layout`.*Scorer\(model, packed=False"
    ):
        Scorer(build(implementation="sdpa"))
    half = build(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="need an fp32 head"):
        Scorer(half)
    with pytest.raises(ValueError, match="need an fp32 head"):
        Scorer(half, packed=False)
    use_fp32_head(half)
    Scorer(half)


def test_bad_requests_are_refused_by_name() -> None:
    scorer = Scorer(build(), max_tokens=20)

    def ask(trunk: list[int], *asked: Branch, name: str = "user 7") -> None:
        scorer.score([Request([5], [Branch([1], [2])]), Request(trunk, asked, name)])

    good = Branch([1], [2])
    with pytest.raises(ValueError, match=r"like, item 4 of user 7 has 21 tokens.*max_tokens=20"):
        ask([1, 2], good, Branch([1] * 21, [2], "like, item 4"))
    with pytest.raises(ValueError, match="branch 1 of user 7 has 0 tokens and 1 choices"):
        ask([1, 2], good, Branch([], [2]))
    with pytest.raises(ValueError, match="branch 0 of request 1 has 1 tokens and 0 choices"):
        ask([1, 2], Branch([1], []), name="")
    with pytest.raises(ValueError, match=r"prompt of 2050 tokens \(2048 of them in .*2048 p"):
        ask([1] * 2048, Branch([1, 2], [3]))
    with pytest.raises(ValueError, match=f"token {V} of the trunk of user 7 lies outside"):
        ask([1, V], good)
    with pytest.raises(ValueError, match="token -1 of the choices of branch 0 of user 7"):
        ask([1], Branch([1], [-1]))
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        Scorer(build().train())
    with pytest.raises(ValueError, match="max_tokens=0"):
        Scorer(build(), max_tokens=0)


@pytest.mark.parametrize("packed", [True, False])
def test_logits_that_are_not_finite_name_their_branch(packed: bool) -> None:
    model = build()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = math.nan
    scorer = Scorer(model, packed=packed)
    asked = [Branch([1], [2, 3]), Branch([4, 7], [2, 3], "click, item 9"), Branch([5], [2, 3])]
    with pytest.raises(ValueError, match="logits of click, item 9 of user 4 are not finite"):
        scorer.score([Request([1, 2], [asked[0]]), Request([3, 2], asked, "user 4")])
    [scores] = scorer.score([Request([1, 2], [asked[0], asked[2]])])
    assert all(np.isfinite(score.probabilities_C).all() for score in scores)


def test_states_of_a_failed_pass_are_not_kept() -> None:
    model, request = build(), Request(ids(40, 0), branches(4))
    scorer = Scorer(model)
    layer = model.model.layers[1].mlp
    stock = layer.forward
    layer.forward = lambda *args: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer.score([request])
    layer.forward = stock
    assert scorer.cache.statistics.entries == 0
    assert_equal(scorer.score([request])[0], one_by_one(model, request), 1e-4)


def test_a_backbone_of_ours_in_half_precision_is_scored_in_fp32() -> None:
    shape = ModelShape(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model = build_backbone(shape, vocab_size=V, seed=1).bfloat16().eval()
    request = Request(ids(30, 0), branches(8))
    [cold] = Scorer(model).score([request])
    assert_equal(cold, one_by_one(model, request), 0.05)
    assert len({score.label_mass for score in cold}) == 8
