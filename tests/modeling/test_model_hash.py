"""The hash follows whatever a model computes, and nothing else."""

import torch
from transformers import PreTrainedModel

from modeling.backbone import build_backbone
from modeling.lora import add_lora
from modeling.model_hash import ModelHash
from modeling.shape import ModelShape

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def build(seed: int = 1) -> PreTrainedModel:
    return build_backbone(SHAPE, vocab_size=31, seed=seed).eval()


def test_equal_weights_have_one_hash() -> None:
    assert ModelHash(build()).value == ModelHash(build()).value
    assert ModelHash(build()).value != ModelHash(build(seed=2)).value
    assert ModelHash(build()).value != ModelHash(build().bfloat16()).value


def test_a_step_of_training_is_seen_and_undone() -> None:
    model = build()
    model_hash = ModelHash(model)
    before = model_hash.value
    weight = model.model.norm.weight
    with torch.no_grad():
        weight[3] += 0.5
    assert model_hash.value != before
    with torch.no_grad():
        weight[3] -= 0.5
    assert model_hash.value == before


def test_swapped_values_and_replaced_tensors_are_seen() -> None:
    model = build()
    model_hash = ModelHash(model)
    before = model_hash.value
    weight = model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[:2] = weight[:2].flip(0)
    swapped = model_hash.value
    assert swapped != before
    weight.data = weight.data + 1.0
    assert model_hash.value not in (before, swapped)


def test_writes_past_torchs_count_need_forget() -> None:
    model = build()
    model_hash = ModelHash(model)
    before = model_hash.value
    model.model.norm.weight.data.fill_(0.5)
    assert model_hash.value == before
    model_hash.forget()
    assert model_hash.value != before


def test_weights_are_read_only_when_they_have_moved() -> None:
    model = build()
    model_hash = ModelHash(model)
    before = model_hash.value
    model.model.norm.weight.data.fill_(0.5)  # not counted: a second reading would show it
    assert model_hash.value == before


def test_switched_adapters_are_seen() -> None:
    adapted = add_lora(build(), rank=2, alpha=4, seed=0, name="a").eval()
    adapted.add_adapter("b", adapted.peft_config["a"])
    model_hash = ModelHash(adapted)
    of_a = model_hash.value
    adapted.set_adapter("b")
    of_b = model_hash.value
    assert of_b != of_a
    with adapted.disable_adapter():
        assert model_hash.value not in (of_a, of_b)
    adapted.set_adapter("a")
    assert model_hash.value == of_a
    adapted.merge_adapter()
    assert model_hash.value != of_a
