"""Switches of how a model computes: applied where they can be, refused with a cure elsewhere."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train.model_setup as setup
from train.config import TrainConfig
from train.errors import ConfigError

CPU = torch.device("cpu")


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(
        model_name_or_path="some/model",
        stores=("store",),
        output_dir="run",
        max_steps=1,
        learning_rate=1e-3,
        **changes,
    )


def engine(stage: int) -> Any:
    return SimpleNamespace(module=torch.nn.Identity(), stage=stage)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    models: list[torch.nn.Module] = []
    monkeypatch.setattr(setup, "compile_layers", models.append)
    return models


def test_layers_are_compiled_when_asked_for_and_not_under_zero_3(
    compiled: list[torch.nn.Module],
) -> None:
    setup.exchange_kernels(config(), engine(2), CPU)
    assert compiled == []
    setup.exchange_kernels(config(torch_compile=True), engine(2), CPU)
    assert len(compiled) == 1
    with pytest.raises(ConfigError, match="zero2"):
        setup.exchange_kernels(config(torch_compile=True), engine(3), CPU)


def test_an_architecture_without_liger_kernels_is_an_error_only_when_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setup, "liger_installed", lambda: True)
    monkeypatch.setattr(setup, "use_liger_kernels", lambda model: False)
    cuda = torch.device("cuda", 0)
    setup.exchange_kernels(config(), engine(2), cuda)
    with pytest.raises(ConfigError, match="no kernels for this model"):
        setup.exchange_kernels(config(use_liger_kernel=True), engine(2), cuda)
