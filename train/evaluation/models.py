"""The two models of an evaluation: a trained one, and the backbone that it started from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from data_pipeline.files import fingerprint, sha256_file
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone, load_backbone
from train.config import TrainConfig
from train.model_setup import load_trained, start_from


def weights_hash(folder: Path) -> str:
    """sha256 over the weight files of a Hugging Face folder, by name.

    Raises:
        ValueError: the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors: it is no model that can be evaluated")
    return fingerprint({path.name: sha256_file(path) for path in files})


def trained_model(folder: Path, device: torch.device) -> nn.Module:
    """A checkpoint's model in eval mode; an adapter on its base."""
    return _placed(load_trained(folder, dtype=_dtype(device)), device)


def untrained_model(config: TrainConfig, store: TokenStore, device: torch.device) -> nn.Module:
    """The backbone as the run found it: random weights of the same seed, or the base weights."""
    if config.model is not None:
        vocab_size = store.card.vocab_size
        return _placed(
            build_backbone(config.model, vocab_size=vocab_size, seed=config.seed), device
        )
    assert config.model_name_or_path is not None, "a config has a model or a path"
    model = load_backbone(start_from(config.model_name_or_path), dtype=_dtype(device))
    return _placed(model, device)


def untrained_name(config: TrainConfig) -> str:
    """What the untrained model is, for the record: no path of a machine."""
    if config.model is not None:
        return f"{config.model.architecture}, random weights of seed {config.seed}"
    path = Path(str(config.model_name_or_path))
    return path.name if path.is_absolute() else str(path)


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device=device, dtype=_dtype(device)).eval()


def _dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it; the head computes in fp32 in any case."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if supported else torch.float32
