"""Adapters: exact over trees, whole when saved, the same when stock peft reloads them."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from modeling.backbone import build_backbone
from modeling.exactness import packing_differences
from modeling.head import Fp32Head
from modeling.hf_folder import save_hf_folder
from modeling.lora import (
    WEIGHTS_FILE,
    adapter_state,
    add_lora,
    linear_layers,
    load_adapter,
    save_adapter,
    trainable_parameters,
)
from modeling.shape import ModelShape
from modeling.tree_layout import TreeLayout

V = 43
SIZES = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}
TOKENS = torch.arange(16)[None] % V
PER_LAYER = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def build(**changes: object) -> PreTrainedModel:
    return build_backbone(ModelShape(**{**SIZES, **changes}), vocab_size=V, seed=0).eval()


def trained(model: PeftModel, seed: int = 0) -> PeftModel:
    """As if some steps had been taken: LoRA's second matrices start as zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def test_a_new_adapter_changes_nothing_and_learns_alone() -> None:
    before = logits(build())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = add_lora(build(), rank=4, alpha=8, seed=1).eval()
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers moved"
    assert torch.equal(logits(model), before)
    sizes = trainable_parameters(model)
    assert len(sizes) == 2 * 7 * 2
    assert all("lora_" in name for name in sizes)
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert isinstance(model.get_base_model().lm_head, Fp32Head), "the head is left alone"


def test_a_seed_gives_one_adapter() -> None:
    first, second, other = (
        adapter_state(add_lora(build(), rank=4, alpha=8, seed=seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "v_proj", "down_proj"]])
def test_packing_is_exact_through_an_adapter(target: str | list[str]) -> None:
    layout = TreeLayout((6, 0), ((3, 1, 5), (4, 2)))
    model = trained(add_lora(build(), rank=4, alpha=8, target=target, seed=1)).double()
    tokens_T = torch.arange(layout.n_tokens) % V
    differences = packing_differences(model, layout, tokens_T, tokens_T.flip(0))
    assert differences.logits < 1e-9
    assert differences.gradients < 1e-9


def test_gradient_checkpointing_reaches_the_adapter() -> None:
    layout, tokens_T = TreeLayout((6,), ((3, 1, 5),)), torch.arange(15)
    gradients = []
    for checkpointing in (False, True):
        model = trained(add_lora(build(), rank=4, alpha=8, seed=1)).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(
            input_ids=tokens_T[None],
            position_ids=layout.positions()[None],
            tree_layout=layout,
            use_cache=False,
        ).logits.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(checkpointed, plain)


def test_targets_are_named_by_the_model() -> None:
    assert linear_layers(build()) == PER_LAYER
    assert linear_layers(build(tie_word_embeddings=False)) == PER_LAYER
    with pytest.raises(
        ValueError,
        match="'q_project' is no linear layer of Qwen3ForCausalLM: did you mean q_proj",
    ):
        add_lora(build(), rank=4, alpha=8, target=["q_project"], seed=0)
    with pytest.raises(ValueError, match=f"There are: all-linear, {', '.join(PER_LAYER)}"):
        add_lora(build(), rank=4, alpha=8, target=["q_proj", "experts"], seed=0)


# Saving and loading.


def test_stock_peft_reloads_the_same_model(tmp_path: Path) -> None:
    base = build()
    save_hf_folder(base.state_dict(), base.config, tmp_path / "base")
    model = trained(add_lora(base, rank=4, alpha=8, dropout=0.1, seed=1))
    save_adapter(model, tmp_path / "adapter", base="owner/base")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    stock = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(stock), logits(model), rtol=0, atol=1e-6)
    ours = load_adapter(build(), tmp_path / "adapter").eval()
    assert torch.equal(logits(ours), logits(model))
    assert not trainable_parameters(ours)
    again = load_adapter(build(), tmp_path / "adapter", trainable=True)
    assert len(trainable_parameters(again)) == 28
    told = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert "owner/base" in told
    assert str(tmp_path) not in told


def test_an_adapter_is_saved_to_the_same_bytes(tmp_path: Path) -> None:
    for n in range(2):
        save_adapter(trained(add_lora(build(), rank=4, alpha=8, seed=1)), tmp_path / str(n))
    for file in (WEIGHTS_FILE, "adapter_config.json"):
        assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()


def test_gathered_parameters_may_be_given(tmp_path: Path) -> None:
    model = trained(add_lora(build(), rank=4, alpha=8, seed=1))
    gathered = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    expected = adapter_state(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.empty(0)  # what ZeRO-3 leaves
    save_adapter(model, tmp_path, state=gathered)
    written = load_file(tmp_path / WEIGHTS_FILE)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_an_adapter_without_numbers_is_never_written(tmp_path: Path) -> None:
    model = add_lora(build(), rank=4, alpha=8, seed=1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.empty(0)
    with pytest.raises(ValueError, match="28 of 28 tensors to be saved have no elements"):
        save_adapter(model, tmp_path / "out")
    partly = {n: torch.ones(4, 4) for n, _ in model.named_parameters() if "q_proj.lora" in n}
    with pytest.raises(ValueError, match="24 tensors are missing"):
        save_adapter(model, tmp_path / "out", state=partly)
    assert not (tmp_path / "out").exists()


def test_two_adapters_are_kept_apart() -> None:
    model = trained(add_lora(build(), rank=4, alpha=8, seed=1))
    first = adapter_state(model)
    model.add_adapter("second", model.peft_config["default"])
    assert all(torch.equal(first[key], value) for key, value in adapter_state(model).items())
    assert adapter_state(model, name="second").keys() == first.keys()
    with pytest.raises(ValueError, match="no adapter 'secnd': did you mean second"):
        adapter_state(model, name="secnd")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    save_adapter(add_lora(build(), rank=4, alpha=8, seed=1), tmp_path)
    with pytest.raises(ValueError, match="does not fit a Qwen3ForCausalLM of this size"):
        load_adapter(build(hidden_size=32), tmp_path)
    with pytest.raises(ValueError, match="14 tensors are missing, 0 are unknown"):
        load_adapter(build(num_hidden_layers=3), tmp_path)
    state = load_file(tmp_path / WEIGHTS_FILE)
    state.pop(sorted(state)[0])
    save_file(state, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="1 tensors are missing"):
        load_adapter(build(), tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match="holds no LoRA adapter"):
        load_adapter(build(), tmp_path)
