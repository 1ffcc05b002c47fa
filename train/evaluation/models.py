"""The two models of an evaluation: a trained one, and the backbone that it started from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from data_pipeline.files import fingerprint, sha256_file
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone, load_backbone
from modeling.lora import load_adapter
from train.checkpoint import resolve_model_folder
from train.config import TrainConfig

ADAPTER = "adapter_config.json"


def weights_hash(folder: Path) -> str:
    """sha256 over the weight files of a Hugging Face folder, by name.

    Raises:
        ValueError: the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors: it is no model that can be evaluated")
    return fingerprint({path.name: sha256_file(path) for path in files})


def load_trained(folder: Path, config: TrainConfig | None, device: torch.device) -> nn.Module:
    """Load a checkpoint's model in eval mode; an adapter with its base.

    Args:
        folder: a Hugging Face folder or a folder with an adapter.
        config: of the run; says where an adapter's base is. None: as the adapter says.
        device: where to.
    """
    if not (folder / ADAPTER).is_file():
        return _placed(load_backbone(folder, dtype=_dtype(device)), device)
    base = config.model_name_or_path if config else None
    if base is None:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    model = load_backbone(local_folder(str(base)), dtype=_dtype(device))
    return _placed(load_adapter(model, folder), device)


def load_untrained(config: TrainConfig, store: TokenStore, device: torch.device) -> nn.Module:
    """The backbone as the run found it: random weights of the same seed, or the base weights."""
    if config.model is not None:
        vocab_size = store.card.vocab_size
        model = build_backbone(config.model, vocab_size=vocab_size, seed=config.seed)
        return _placed(model, device)
    assert config.model_name_or_path is not None, "a config has a model or a path"
    base = local_folder(config.model_name_or_path)
    return _placed(load_backbone(base, dtype=_dtype(device)), device)


def untrained_name(config: TrainConfig) -> str:
    """What the untrained model is, for the record."""
    if config.model is not None:
        return f"{config.model.architecture}, random weights of seed {config.seed}"
    return str(config.model_name_or_path)


def local_folder(name_or_path: str) -> str:
    """A run's or checkpoint's model folder; a hub id, file or package name as it is."""
    return str(resolve_model_folder(name_or_path)) if Path(name_or_path).is_dir() else name_or_path


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, _dtype(device)).eval()


def _dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it; the head computes in fp32 in any case."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if supported else torch.float32
