"""Backbones: the same from the same seed, loaded whole or not at all, saved as stock folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedModel,
    Qwen2Config,
)

from modeling.backbone import (
    build_backbone,
    check_architecture,
    count_parameters,
    load_backbone,
)
from modeling.head import Fp32Head
from modeling.hf_folder import save_hf_folder
from modeling.label_scores import label_logits
from modeling.shape import ModelShape
from modeling.tree_attention import TREE_ATTENTION
from modeling.tree_layout import TreeLayout

V = 47
SIZES = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}
SHAPES = {
    "llama": ModelShape(architecture="llama", tie_word_embeddings=False, **SIZES),
    "tied llama": ModelShape(architecture="llama", **SIZES),
    "qwen3": ModelShape(architecture="qwen3", rope_theta=5000.0, **SIZES),
    "mixtral": ModelShape(
        architecture="mixtral",
        num_local_experts=4,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
        **SIZES,
    ),
}
TOKENS = torch.arange(12)[None] % V


def build(name: str = "qwen3", seed: int = 0) -> PreTrainedModel:
    model = build_backbone(
        SHAPES[name], vocab_size=V, seed=seed, bos_token_id=1, eos_token_id=2, pad_token_id=3
    )
    return model.eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def saved(model: PreTrainedModel, folder: Path) -> Path:
    save_hf_folder(model.state_dict(), model.config, folder)
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_a_seed_gives_one_model_and_leaves_the_callers_randomness(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build(name)
    assert torch.equal(torch.rand(3), expected)
    second, other = build(name), build(name, seed=1)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert not torch.equal(logits(first), logits(other))


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_is_what_is_built(name: str) -> None:
    shape, model = SHAPES[name], build(name)
    assert count_parameters(model).total == shape.n_parameters(V)
    assert model.config.head_dim == 8
    assert model.config.rope_parameters["rope_theta"] == shape.rope_theta
    assert model.config._attn_implementation == TREE_ATTENTION
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == shape.tie_word_embeddings


def test_special_tokens_do_not_change_the_weights_and_learn() -> None:
    plain = build_backbone(SHAPES["qwen3"], vocab_size=V, seed=0)
    model = build()
    assert torch.equal(plain.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)
    untied = build("llama")
    untied(torch.tensor([[4, 3, 5]])).logits.sum().backward()
    assert untied.model.embed_tokens.weight.grad[3].any(), "the padding token's row has no gradient"
    with pytest.raises(ValueError, match="eos_token_id=47 lies outside of a vocabulary of 47"):
        build_backbone(SHAPES["qwen3"], vocab_size=V, seed=0, eos_token_id=V)


def test_frozen_parameters_are_not_counted_as_trainable() -> None:
    model = build()
    model.model.embed_tokens.requires_grad_(False)
    total, trainable = count_parameters(model)
    assert total - trainable == V * 24


@pytest.mark.parametrize("name", SHAPES)
def test_the_head_computes_in_fp32(name: str) -> None:
    model = build(name)
    assert isinstance(model.lm_head, Fp32Head)
    hidden = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    expected = hidden.bfloat16().double() @ model.lm_head.weight.bfloat16().double().T
    model.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model.lm_head(hidden.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)
    got.sum().backward()
    assert model.lm_head.weight.grad.dtype == torch.bfloat16


# Saving and loading.


@pytest.mark.parametrize("name", SHAPES)
def test_stock_transformers_reload_the_same_model(name: str, tmp_path: Path) -> None:
    model = build(name)
    folder = saved(model, tmp_path / "model")
    stock, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert type(stock.lm_head) is torch.nn.Linear
    assert stock.config._attn_implementation == "sdpa"
    for key, value in model.state_dict().items():
        assert torch.equal(stock.state_dict()[key], value), key
    torch.testing.assert_close(logits(stock.eval()), logits(model), rtol=0, atol=1e-6)
    assert torch.equal(logits(load_backbone(folder)), logits(model))
    assert "brewhouse" not in (folder / "config.json").read_text()


@pytest.mark.parametrize("drop", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_head_may_come_under_either_name(drop: str, tmp_path: Path) -> None:
    model = build("tied llama")
    state = model.state_dict()
    del state[drop]
    save_hf_folder(state, model.config, tmp_path)
    assert torch.equal(logits(load_backbone(tmp_path)), logits(model))


def test_the_generation_config_holds_no_sampling_defaults(tmp_path: Path) -> None:
    model = build()
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.6
    saved(model, tmp_path)
    told = json.loads((tmp_path / "generation_config.json").read_text())
    told.pop("transformers_version")
    assert {key: told[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    assert "temperature" not in told
    assert not told.get("do_sample")


def test_saved_files_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    first = saved(build(), tmp_path / "first")
    second = saved(load_backbone(first), tmp_path / "second")
    for file in second.glob("*.json"):
        assert str(tmp_path) not in file.read_text()
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_half_precision_stays_half_precision(tmp_path: Path) -> None:
    folder = saved(build().bfloat16(), tmp_path)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    assert load_backbone(folder, dtype=torch.float32).dtype == torch.float32


def test_a_state_that_makes_no_model_is_refused(tmp_path: Path) -> None:
    model = build("llama")
    norm = "model.norm.weight"
    bad_states = {
        r"1 of 21 tensors to be saved have no elements \(model\.norm\.weight\): under ZeRO-3": {
            norm: torch.empty(0)
        },
        r"1 are missing \(model\.norm\.weight\), 0 are unknown": {norm: None},
        r"0 are missing \(none\), 1 are unknown \(extra\)": {"extra": torch.ones(2)},
        r"model\.norm\.weight has shape \[23\]; the config wants \[24\]": {norm: torch.ones(23)},
    }
    for message, change in bad_states.items():
        state = {k: v for k, v in (model.state_dict() | change).items() if v is not None}
        with pytest.raises(ValueError, match=message):
            save_hf_folder(state, model.config, tmp_path / "out")
    tied = build("tied llama")
    state = tied.state_dict()
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ValueError, match="tied in the config but hold different numbers"):
        save_hf_folder(state, tied.config, tmp_path / "out")
    with pytest.raises(ValueError, match="0 of 0 tensors"):
        save_hf_folder({}, tied.config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = build("tied llama")
    before = logits(model)
    saved(model, tmp_path)
    assert torch.equal(logits(model), before)
    assert model.config._attn_implementation == TREE_ATTENTION
    assert not any(parameter.is_meta for parameter in model.parameters())


# What cannot be loaded.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "there is no folder /no/such/folder, and that is not a hub id"),
        ("./nowhere", r"there is no folder \./nowhere"),
        ("a/b/c", "there is no folder a/b/c"),
        ("no/such.gguf", r"there is no GGUF file no/such\.gguf"),
        ("package:no-such-package", "is not installed: pip install 'no-such-package'"),
    ],
)
def test_a_name_of_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone(name)


def test_an_unreachable_hub_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nMore.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    with pytest.raises(
        ValueError, match=r"owner/name is no local folder.*couldn't connect.*network"
    ):
        load_backbone("owner/name")


def test_a_broken_folder_is_refused(tmp_path: Path) -> None:
    whole = saved(build(), tmp_path / "whole")
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cut is broken or cut off"):
        load_backbone(cut)

    lacking = Path(shutil.copytree(whole, tmp_path / "lacking"))
    state = load_file(lacking / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors .* such as model\.norm\.weight"):
        load_backbone(lacking)

    (tmp_path / "lacking" / "model.safetensors").unlink()
    torch.save({}, lacking / "pytorch_model.bin")  # a pickle: never read
    with pytest.raises(ValueError, match="lacking cannot be read"):
        load_backbone(lacking)

    with pytest.raises(ValueError, match=r"has no config\.json.*in it are: cut, lacking, whole"):
        load_backbone(tmp_path / ".." / tmp_path.name)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a LoRA adapter, which is no model by itself"):
        load_backbone(tmp_path)


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: pass\n")
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "evil.C"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be read"):
        load_backbone(tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig(), "bert is no causal language model"),
        (BloomConfig(), "bloom does not take its attention from"),
        (MambaConfig(), r"mamba has layers that carry a state along the row \(linear_attention\)"),
        (
            Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]),
            r"a state along the row \(conv\)",
        ),
    ],
    ids=["bert", "bloom", "mamba", "lfm2"],
)
def test_architectures_that_cannot_follow_trees_are_refused(config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_architecture(config)


def test_an_architecture_that_no_test_covers_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_architecture(LlamaConfig())
    assert not caplog.records
    check_architecture(Qwen2Config())
    assert "qwen2 is not among the architectures whose packing is tested" in caplog.text


def test_a_loaded_model_follows_trees(tmp_path: Path) -> None:
    model, layout = load_backbone(saved(build(), tmp_path)), TreeLayout((5,), ((3, 4),))
    with torch.no_grad():
        packed = label_logits(model, TOKENS[0], layout.positions(), layout, torch.tensor([7, 11]))
        alone = model(TOKENS[:, [0, 1, 2, 3, 4, 8, 9, 10, 11]]).logits[0, -1]
    torch.testing.assert_close(packed[1], alone, rtol=0, atol=1e-5)
