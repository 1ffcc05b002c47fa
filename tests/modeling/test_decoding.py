"""Greedy texts equal those of one prompt at a time that is read anew for every token."""

import numpy as np
import pytest
import torch

from modeling.backbone import build_backbone
from modeling.decoding import _batches, decode_greedily
from modeling.lora import add_lora
from modeling.shape import ModelShape

VOCABULARY = 60
STOPS = tuple(range(0, VOCABULARY, 4))
NEW = 24


def sharp_model(architecture: str = "llama", seed: int = 3) -> torch.nn.Module:
    """Random weights, but sharp: the likeliest token wins by far more than rounding."""
    shape = ModelShape(
        architecture=architecture,  # type: ignore[arg-type]
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **({"num_local_experts": 4, "num_experts_per_tok": 2} if architecture == "mixtral" else {}),
    )
    model = build_backbone(shape, vocab_size=VOCABULARY, seed=seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return model


def prompts_of(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for length in (1, 30, 2, 17, 30, 9, 1, 40)]


@torch.no_grad()
def slowly(model: torch.nn.Module, prompt: np.ndarray, new: int = NEW) -> list[int]:
    ids = prompt.tolist()
    while len(ids) < len(prompt) + new:
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in STOPS:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mixtral"])
@pytest.mark.parametrize("max_tokens", [1, 150, 8192])
def test_texts_are_those_of_a_prompt_alone_without_a_cache(
    architecture: str, max_tokens: int
) -> None:
    model = sharp_model(architecture)
    prompts = prompts_of()
    texts = decode_greedily(
        model, prompts, stop_tokens=STOPS, max_new_tokens=NEW, max_tokens=max_tokens
    )
    assert [text.tolist() for text in texts] == [slowly(model, prompt) for prompt in prompts]
    ends = [text[-1] in STOPS for text in texts]
    assert any(ends)
    assert len({len(text) for text in texts}) > 1
    assert len({tuple(text) for text in texts}) > 3  # not one text whatever the prompt


def test_an_adapter_writes_what_it_says_alone() -> None:
    model = add_lora(sharp_model(), rank=4, alpha=8, seed=2)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(4))
    model.eval()
    prompts = prompts_of(1)
    texts = decode_greedily(model, prompts, stop_tokens=STOPS, max_new_tokens=NEW)
    assert [text.tolist() for text in texts] == [slowly(model, prompt) for prompt in prompts]


def test_a_text_that_does_not_end_has_all_its_tokens() -> None:
    model = sharp_model()
    prompts = prompts_of()
    for new in (1, 5):
        texts = decode_greedily(model, prompts, stop_tokens=(), max_new_tokens=new)
        assert [len(text) for text in texts] == [new] * len(prompts)
    assert decode_greedily(model, [], stop_tokens=STOPS, max_new_tokens=3) == []


def test_prompts_of_like_length_are_read_together_within_the_limit() -> None:
    lengths = [5, 100, 6, 90, 5]
    batches = list(_batches(lengths, 10, 50))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * (max(lengths[r] for r in rows) + 10) <= 50
    assert [0, 4, 2] in batches


def test_what_cannot_be_decoded_is_refused() -> None:
    model = sharp_model()
    with pytest.raises(ValueError, match="a prompt has no token"):
        decode_greedily(model, [[]], stop_tokens=STOPS, max_new_tokens=3)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        decode_greedily(model, [[1]], stop_tokens=STOPS, max_new_tokens=0)
    with pytest.raises(ValueError, match="training mode"):
        decode_greedily(model.train(), [[1]], stop_tokens=STOPS, max_new_tokens=3)
    with torch.no_grad():
        model.eval().get_input_embeddings().weight[3] = float("nan")  # type: ignore[operator]
    with pytest.raises(ValueError, match="not finite while a text is written"):
        decode_greedily(model, [[3]], stop_tokens=STOPS, max_new_tokens=3)
