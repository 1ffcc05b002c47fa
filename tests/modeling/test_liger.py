"""Liger's kernels: against ours on a GPU; what is exchanged, and the check, everywhere."""

import copy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from modeling.backbone import build_backbone
from modeling.label_losses import label_losses
from modeling.liger import liger_installed, use_liger_kernels
from modeling.linear_cross_entropy import Labels
from modeling.lora import add_lora
from modeling.shape import ModelShape
from modeling.tree_layout import TreeLayout


def build(architecture: str = "llama") -> Any:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    shape = ModelShape(
        architecture=architecture,  # type: ignore[arg-type]
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **(experts if architecture == "mixtral" else {}),
    )
    return build_backbone(shape, vocab_size=100, seed=0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package in the place of Liger that notes its call, and scales the last norm by `scale`."""
    calls: dict[str, Any] = {"scale": 1.0}

    def exchange(model: Any, **kernels: bool) -> None:
        calls.update(kernels, model=model)
        model.model.norm.weight.data.mul_(calls["scale"])

    package = ModuleType("liger_kernel.transformers")
    package.monkey_patch = SimpleNamespace(  # type: ignore[attr-defined]
        MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": exchange}, _apply_liger_kernel_to_instance=exchange
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    return calls


@pytest.mark.parametrize("adapted", [False, True])
def test_the_layers_are_exchanged_and_the_loss_is_not(asked: dict[str, Any], adapted: bool) -> None:
    model = build()
    trained = add_lora(model, rank=2, alpha=4, seed=0) if adapted else model
    assert use_liger_kernels(trained.train())
    assert asked["model"] is model
    assert all(asked[name] for name in ("rope", "rms_norm", "swiglu"))
    assert not any(asked[name] for name in ("cross_entropy", "fused_linear_cross_entropy"))
    assert trained.training


def test_kernels_that_give_other_logits_are_refused(asked: dict[str, Any]) -> None:
    asked["scale"] = 1.001
    with pytest.raises(ValueError, match="use_liger_kernel=false"):
        use_liger_kernels(build())


def test_an_architecture_that_liger_does_not_know_stays_as_it_is(asked: dict[str, Any]) -> None:
    assert not use_liger_kernels(build("qwen3"))
    assert "model" not in asked


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and liger_installed()), reason="needs CUDA and liger-kernel"
)
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mixtral"])
def test_liger_gives_our_losses_and_gradients(architecture: str) -> None:
    layout = TreeLayout((40, 3), ((7, 12), (5,)))
    generator = torch.Generator().manual_seed(0)
    tokens_T = torch.randint(0, 100, (layout.n_tokens,), generator=generator).cuda()
    places_M = torch.tensor([45, 50, 58, 64]).cuda()
    labels = Labels(
        torch.tensor([1, 2, 3, 4]).cuda(),
        torch.ones(4).cuda(),
        torch.full((4, 1), -1).cuda(),
    )
    ours = build(architecture).cuda()
    theirs = copy.deepcopy(ours)
    results = []
    for model in (ours, theirs):  # in this order: rotary embedding is exchanged for both
        if model is theirs:
            assert use_liger_kernels(model)
        row = (tokens_T, layout.positions().cuda(), layout, places_M)
        losses = label_losses(model, *row, labels)
        losses.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((losses.losses_M, gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
