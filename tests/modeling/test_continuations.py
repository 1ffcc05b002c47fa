"""Likelihoods of texts are what one prompt at a time gives, at bounded memory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import SCORED_VOCABULARY as V
from tiny_decoders import scored_backbone
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

import modeling.label_scores as label_scores
from modeling.continuations import score_continuations
from modeling.exactness import KeepDouble
from modeling.lora import add_lora
from modeling.trunk_cache import TrunkCache


def one_by_one(model: PreTrainedModel, context: list[int], texts: list[list[int]]) -> list[float]:
    """The naive reference: a forward of each whole prompt, full logits, a loop over tokens."""
    scores = []
    for text in texts:
        logits_TV = model(torch.tensor([context + text])).logits[0].detach().double()
        log_p_TV = logits_TV.log_softmax(-1)
        scores.append(
            sum(float(log_p_TV[len(context) - 1 + n, token]) for n, token in enumerate(text))
        )
    return scores


def random_texts(n: int, seed: int = 0, longest: int = 9) -> list[list[int]]:
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return [generator.integers(0, V, generator.integers(1, longest)).tolist() for _ in range(n)]


@pytest.mark.parametrize("max_tokens", [26, 64, 4096])
def test_scores_equal_one_by_one(max_tokens: int) -> None:
    model, context, texts = scored_backbone(torch.float64), list(range(12)), random_texts(60)
    texts += [texts[3], texts[5][:1], [*texts[7], 4], [texts[8][0], 2]]  # same, prefix, longer
    with KeepDouble():
        scores_N = score_continuations(model, context, texts, max_tokens=max_tokens)
        expected = one_by_one(model, context, texts)
    assert scores_N.shape == (64,)
    assert scores_N.dtype == np.float64
    np.testing.assert_allclose(scores_N, expected, rtol=0, atol=1e-9)
    assert scores_N[60] == scores_N[3]


@settings(max_examples=25, deadline=None)
@given(
    context=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    # Few different tokens, so that texts repeat and begin with each other.
    texts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=12),
    room=st.integers(3, 40),
)
def test_any_texts_are_scored_exactly(
    context: list[int], texts: list[list[int]], room: int
) -> None:
    model = scored_backbone()
    scores_N = score_continuations(model, context, texts, max_tokens=len(context) + room)
    np.testing.assert_allclose(scores_N, one_by_one(model, context, texts), rtol=0, atol=1e-4)


def test_order_of_texts_does_not_matter() -> None:
    model, texts = scored_backbone(), random_texts(40)
    forward = score_continuations(model, [1, 2, 3], texts)
    backward = score_continuations(model, [1, 2, 3], texts[::-1])
    assert np.array_equal(forward, backward[::-1])


def test_chunks_of_the_head_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = scored_backbone(tied=False), random_texts(40)
    whole = score_continuations(model, [1, 2, 3], texts)
    monkeypatch.setattr(label_scores, "LOGITS_AT_ONCE", 7 * V)
    np.testing.assert_allclose(
        score_continuations(model, [1, 2, 3], texts), whole, rtol=0, atol=1e-5
    )


def test_memory_is_bounded_whatever_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_scores, "LOGITS_AT_ONCE", 8 * V)
    model, largest, rows = scored_backbone(), [], []
    model.lm_head.register_forward_hook(lambda m, i, out: largest.append(out.numel()))
    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    score_continuations(model, list(range(10)), random_texts(300), max_tokens=50)
    assert max(largest) <= 8 * V
    assert max(rows) <= 50
    assert len(rows) > 10


def test_what_is_the_same_runs_once() -> None:
    model, rows = scored_backbone(), []
    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    texts = [[5, 6, 7], [5, 6, 8], [5, 6], [5], [5, 6, 7, 9], [1, 2]]
    score_continuations(model, [0, 0, 0], texts)
    assert rows[-2:] == [3, 1 + 3 + 1], "the context; its last token, the branches 5 6 7 and 1"


def test_scores_go_through_an_adapter() -> None:
    model, context, texts = scored_backbone(), [3, 4, 5], random_texts(10)
    plain = score_continuations(model, context, texts)
    adapted = add_lora(model, rank=4, alpha=64, seed=0).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    scores_N = score_continuations(adapted, context, texts)
    assert np.abs(scores_N - plain).max() > 0.1
    np.testing.assert_allclose(scores_N, one_by_one(adapted, context, texts), rtol=0, atol=1e-4)


def test_bad_requests_are_refused() -> None:
    model = scored_backbone()
    with pytest.raises(ValueError, match="the context has no token"):
        score_continuations(model, [], [[1]])
    with pytest.raises(ValueError, match="continuation 1 has no token"):
        score_continuations(model, [1], [[1], []])
    with pytest.raises(ValueError, match="continuation 1 needs 5 tokens of a pass"):
        score_continuations(model, [1, 2], [[1], [1] * 6], max_tokens=5)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        score_continuations(model.train(), [1], [[1]])
    assert score_continuations(model.eval(), [1], []).shape == (0,)


def test_broken_weights_are_noticed() -> None:
    model = scored_backbone()
    model.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        score_continuations(model, [1, 2], [[3, 4]])


def test_logits_changed_after_the_head_are_noticed() -> None:
    model = scored_backbone()
    stock = model.forward

    def scaled(**kwargs: object) -> ModelOutput:
        output = stock(**kwargs)
        output.logits = output.logits / 4
        return output

    model.forward = scaled
    with pytest.raises(ValueError, match="changes its logits after the head"):
        score_continuations(model, [1, 2], [[3, 4]])


def test_a_context_is_encoded_once_and_kept() -> None:
    model, rows, context = scored_backbone(), [], list(range(40))
    cache = TrunkCache(model, 1 << 20)
    expected = one_by_one(model, context, random_texts(60))
    model.model.register_forward_hook(lambda m, i, out: rows.append(out.last_hidden_state.shape[1]))
    for _ in range(2):
        scores_N = score_continuations(model, context, random_texts(60), max_tokens=30, cache=cache)
        np.testing.assert_allclose(scores_N, expected, rtol=0, atol=1e-4)
    cold, warm = rows[: rows.index(1, 3)], rows[rows.index(1, 3) :]
    assert sum(cold) - sum(warm) == 40
    longer = [*context, 7, 8]
    scores_N = score_continuations(model, longer, [[3, 4]], cache=cache)
    np.testing.assert_allclose(scores_N, one_by_one(model, longer, [[3, 4]]), rtol=0, atol=1e-4)
    assert cache.statistics.partial_hits == 1
