"""Losses through real models: the same as of logits, whatever wraps or follows the head."""

import logging
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from modeling.backbone import build_backbone
from modeling.exactness import KeepDouble
from modeling.head import use_fp32_head
from modeling.label_losses import label_losses
from modeling.label_scores import label_logits
from modeling.linear_cross_entropy import Labels, cross_entropy_of_logits
from modeling.lora import add_lora
from modeling.shape import ModelShape
from modeling.tree_attention import TREE_ATTENTION, register
from modeling.tree_layout import TreeLayout

VOCABULARY = 60
LAYOUT = TreeLayout((7, 0), ((3, 4), (5,)))
TOKENS_T = torch.randint(0, VOCABULARY, (19,), generator=torch.Generator().manual_seed(0))
PLACES_M = torch.tensor([8, 9, 13, 15, 3])
LABELS = Labels(
    torch.tensor([4, 9, 30, 31, 7]),
    torch.tensor([1.0, 2.0, 0.5, 0.5, 0.25]),
    torch.tensor([[4, 5, -1], [8, 9, 10], [-1, -1, -1], [-1, -1, -1], [-1, -1, -1]]),
)
OVER_CHOICES = Labels(LABELS.tokens_M, LABELS.weights_M, LABELS.choices_MC, over_choices=True)


def build(*, tied: bool, architecture: str = "llama") -> Any:
    shape = ModelShape(
        architecture=architecture,  # type: ignore[arg-type]
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return build_backbone(shape, vocab_size=VOCABULARY, seed=0)


def row(model: Any) -> tuple[Any, ...]:
    return model, TOKENS_T, LAYOUT.positions(), LAYOUT, PLACES_M


def check_equal(model: Any, labels: Labels, *, limit: float) -> None:
    """The model's fused losses and gradients are those of its logits."""
    results = []
    for make in (
        lambda: label_losses(*row(model), labels),
        lambda: cross_entropy_of_logits(label_logits(*row(model)), labels),
    ):
        model.zero_grad()
        losses = make()
        (losses.loss * 3.0).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((losses.loss.detach(), losses.losses_M, losses.correct_M, gradients))
    torch.testing.assert_close(*results, rtol=limit, atol=limit)


@pytest.mark.parametrize("labels", [LABELS, OVER_CHOICES], ids=["vocabulary", "choices"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_heads_losses_are_those_of_its_logits(
    labels: Labels, tied: bool, architecture: str
) -> None:
    model = build(tied=tied, architecture=architecture)
    check_equal(model, labels, limit=1e-5)
    assert not model.lm_head.changed_after
    with KeepDouble():
        check_equal(model.double(), labels, limit=1e-9)


def test_with_adapters_the_frozen_head_gets_no_gradient() -> None:
    model = add_lora(build(tied=True), rank=2, alpha=4, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    check_equal(model, LABELS, limit=1e-5)
    head = model.get_output_embeddings()
    assert not head.changed_after
    assert head.weight.grad is None


def test_a_bf16_model_has_fp32_losses() -> None:
    model = build(tied=True).bfloat16()
    assert label_losses(*row(model), LABELS).losses_M.dtype == torch.float32
    check_equal(model, LABELS, limit=1e-2)  # gradients are rounded to bf16


def gemma2() -> Any:
    register()
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_logit_softcapping=None,
        final_logit_softcapping=2.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=TREE_ATTENTION)
    use_fp32_head(model)
    torch.nn.init.normal_(model.lm_head.weight)
    return model


def adapted_head() -> Any:
    model = add_lora(build(tied=False), rank=2, alpha=4, target=["lm_head"], seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("make", [gemma2, adapted_head])
def test_a_model_that_changes_its_logits_keeps_its_losses(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    with caplog.at_level(logging.WARNING):
        check_equal(model, LABELS, limit=1e-5)
        check_equal(model, LABELS, limit=1e-5)
    said = [
        record.message for record in caplog.records if "changes what its head" in record.message
    ]
    assert len(said) == 1


def test_the_head_gives_logits_again_after_an_error() -> None:
    model = build(tied=True)
    wrong = Labels(LABELS.tokens_M[:2], LABELS.weights_M[:2], LABELS.choices_MC[:2])
    with pytest.raises(ValueError, match="5 hidden states for 2 labels"):
        label_losses(*row(model), wrong)
    assert label_logits(*row(model)).shape == (5, VOCABULARY)
