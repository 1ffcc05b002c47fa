"""The model of a run: built from a shape or loaded, adapted, made trainable; and written back."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from data_pipeline.errors import DataError
from data_pipeline.store import TokenStore
from data_pipeline.tokenizer import TextEncoder
from modeling.backbone import build_backbone, count_parameters, load_backbone
from modeling.compilation import compile_layers
from modeling.hf_folder import save_hf_folder
from modeling.liger import liger_installed, use_liger_kernels
from modeling.lora import add_lora, load_adapter, save_adapter
from modeling.weights import resolve_weights
from train.checkpoint import resolve_model_folder
from train.config import TrainConfig
from train.distributed import DistributedContext
from train.distributed.zero import ZeroEngine, partitioned_loading
from train.distributed.zero_config import deepspeed_config, zero_stage
from train.errors import ConfigError

log = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"


def make_model(
    config: TrainConfig, store: TokenStore, context: DistributedContext, *, bf16: bool
) -> nn.Module:
    """The model in training mode, its trainable parameters marked; the same on every rank.

    Raises:
        ConfigError: the model reads another tokenizer than the store was compiled for, or is a
            bare adapter.
        ValueError: the weights are broken, or LoRA targets are not there.
    """
    if config.model is not None:
        tokenizer = store.encoder.tokenizer
        model: PreTrainedModel = build_backbone(
            config.model,
            vocab_size=store.card.vocab_size,
            seed=config.seed,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    else:
        model = _load(config, store, context, bf16=bf16)
    if config.gradient_checkpointing:
        _recompute_activations(model)
    trained: nn.Module = model
    if config.lora is not None:
        rank, alpha, dropout, target = config.lora
        trained = add_lora(
            model, rank=rank, alpha=alpha, dropout=dropout, target=target, seed=config.seed
        )
    return trained.train()


def zero_settings(
    config: TrainConfig, model: nn.Module, context: DistributedContext, *, bf16: bool
) -> dict[str, Any]:
    """The DeepSpeed JSON for this model on these ranks."""
    counts = count_parameters(model)
    return deepspeed_config(
        config,
        world_size=context.world_size,
        device_type=context.device.type,
        bf16=bf16,
        hidden_size=int(model.config.hidden_size),  # type: ignore[union-attr, arg-type]
        n_parameters=counts.total,
        n_trainable=counts.trainable,
    )


def exchange_kernels(config: TrainConfig, engine: ZeroEngine, device: torch.device) -> None:
    """Let the model compute with Liger's kernels and compiled layers where the config wants them.

    Raises:
        ConfigError: they cannot run here, or not with this architecture or ZeRO stage.
        ValueError: Liger's kernels give other logits.
    """
    if config.resolve_liger(device.type, installed=liger_installed()):
        known = use_liger_kernels(engine.module)
        if not known and config.use_liger_kernel:
            raise ConfigError(
                "use_liger_kernel: true, but Liger has no kernels for this model's architecture. "
                "Set it to false.",
                keys=("use_liger_kernel",),
            )
    if config.torch_compile:
        if engine.stage == 3:
            raise ConfigError(
                "torch_compile: true under ZeRO-3, which gathers weights inside the layers that "
                "would be compiled. Set torch_compile=false, or deepspeed=zero2.",
                keys=("torch_compile", "deepspeed"),
            )
        compile_layers(engine.module)


def start_from(name_or_path: str) -> str:
    """What to load weights from: inside a run, a checkpoint or an export, the model folder."""
    path = Path(name_or_path).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        return str(resolve_model_folder(path))
    return resolve_weights(name_or_path)


def load_trained(path: str | Path, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load the model of a run, a checkpoint or an export, in eval mode; an adapter on its base.

    Raises:
        CheckpointError: nothing loadable is there.
        ValueError: the weights are broken.
    """
    folder = Path(start_from(str(path)))
    if not (folder / ADAPTER).is_file():
        return load_backbone(str(folder), dtype=dtype)
    base = json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"]
    return load_adapter(load_backbone(base, dtype=dtype), folder).eval()


def write_model(
    engine: ZeroEngine,
    config: TrainConfig,
    tokenizer_folder: Path,
    context: DistributedContext,
    folder: Path,
) -> None:
    """Write a folder that stock transformers (or peft) loads. All ranks call; rank 0 writes."""
    state = engine.full_state(trainable_only=config.lora is not None)
    if not context.is_main:
        return
    model: Any = engine.module
    if config.lora is None:
        save_hf_folder(state, model.config, folder)
    else:
        assert config.model_name_or_path is not None, "config refuses LoRA on a model from scratch"
        save_adapter(model, folder, state=state, base=start_from(config.model_name_or_path))
    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)


def _load(
    config: TrainConfig, store: TokenStore, context: DistributedContext, *, bf16: bool
) -> PreTrainedModel:
    assert config.model_name_or_path is not None
    source = start_from(config.model_name_or_path)
    if (Path(source) / ADAPTER).is_file():
        raise ConfigError(
            f"model_name_or_path={config.model_name_or_path} is a LoRA adapter, no whole model. "
            f"Merge it first with `brewhouse export RUN --to merged`, and start from that",
            keys=("model_name_or_path",),
        )
    with partitioned_loading(_loading_settings(config, source, context, bf16), context):
        model = load_backbone(source, dtype=torch.bfloat16 if bf16 else torch.float32)
    _check_vocabulary(config, source, model, store)
    return model


def _loading_settings(
    config: TrainConfig, source: str, context: DistributedContext, bf16: bool
) -> dict[str, Any]:
    """The DeepSpeed JSON as far as it is known before the weights are: for ZeRO-3 alone."""
    if zero_stage(config) < 3:
        return {}
    shape = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device("meta"):
        hollow = AutoModelForCausalLM.from_config(shape)  # type: ignore[no-untyped-call]
    return zero_settings(config, hollow, context, bf16=bf16)


def _recompute_activations(model: Any) -> None:
    """Under the name that this version of transformers has for it."""
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _check_vocabulary(
    config: TrainConfig, source: str, model: PreTrainedModel, store: TokenStore
) -> None:
    """Ids of another tokenizer would be trained on without any complaint."""
    rows, needed = int(model.config.vocab_size), store.card.vocab_size
    try:
        theirs = TextEncoder.load(source).fingerprint
    except DataError:
        theirs = store.card.tokenizer_fingerprint
        log.warning("%s has no tokenizer to compare with the token store's", source)
    if rows >= needed and theirs == store.card.tokenizer_fingerprint:
        return
    raise ConfigError(
        f"the token store {store.folder} was compiled for another tokenizer than that of "
        f"{config.model_name_or_path} ({needed:,} ids there, {rows:,} embedding rows here). "
        f"Compile it again with `brewhouse data build --tokenizer {config.model_name_or_path}`",
        keys=("stores", "model_name_or_path"),
    )
