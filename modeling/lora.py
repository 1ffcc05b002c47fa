"""LoRA: small trainable matrices beside frozen linear layers (Hu et al. 2021, arXiv 2106.09685).

The adapters are peft's, so that stock peft reloads what is saved here.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from modeling.backbone import isolated_seed, nearest
from modeling.hf_folder import refuse_empty

ALL_LINEAR = "all-linear"
WEIGHTS_FILE = "adapter_model.safetensors"


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    dropout: float = 0.0,
    target: str | Sequence[str] = ALL_LINEAR,
    seed: int,
    name: str = "default",
) -> PeftModel:
    """Freeze a model and add a LoRA adapter, which changes nothing until it is trained.

    Args:
        model: a causal LM; changed in place.
        rank: columns of the small matrices.
        alpha: the adapter counts `alpha / rank`.
        dropout: of the adapter's input, in training.
        target: `all-linear` (every linear layer but the head), or names of linear layers, such as
            `["q_proj", "v_proj"]`. Experts of a mixture are stacked tensors, no linear layers.
        seed: of the initial matrices; the caller's random numbers do not move.
        name: of the adapter, among several of one model.

    Raises:
        ValueError: a target that is no linear layer of this model.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_targets(model, target),
        task_type="CAUSAL_LM",
    )
    with isolated_seed(seed):
        adapted = get_peft_model(model, config, adapter_name=name)
    assert isinstance(adapted, PeftModel)
    return adapted


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names that `add_lora` may target: the last part of every linear layer's, without the head."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
    )


def _targets(model: PreTrainedModel, target: str | Sequence[str]) -> list[str]:
    if target == ALL_LINEAR:
        return linear_layers(model)  # peft's own word becomes a list of every layer's full name
    asked = [target] if isinstance(target, str) else list(target)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in asked:
        if not any(full == name or full.endswith(f".{name}") for full in linear):
            raise ValueError(
                f"LoRA target {name!r} is no linear layer of {type(model).__name__}: "
                f"{nearest(name, [*linear_layers(model), ALL_LINEAR])}"
            )
    return asked


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Sizes of the parameters that learn, by name; whole sizes under ZeRO-3 as well."""
    return {
        name: int(getattr(parameter, "ds_numel", parameter.numel()))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def adapter_state(
    model: PeftModel, state: Mapping[str, torch.Tensor] | None = None, *, name: str = "default"
) -> dict[str, torch.Tensor]:
    """One adapter's tensors, whole, on CPU, under the names that peft writes.

    Args:
        model: the model with the adapter.
        state: its parameters by their names in the model, where a process group has gathered them;
            taken off the model otherwise.
        name: of the adapter.

    Raises:
        ValueError: no such adapter, or tensors without elements: under ZeRO-3 a process holds only
            its part of each, and peft alone would save them so.
    """
    if name not in model.peft_config:
        raise ValueError(f"no adapter {name!r}: {nearest(name, model.peft_config)}")
    source = dict(model.state_dict() if state is None else state)
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state_dict=source, adapter_name=name, save_embedding_layers=False
    )
    refuse_empty(tensors)
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    state: Mapping[str, torch.Tensor] | None = None,
    base: str | None = None,
    name: str = "default",
) -> None:
    """Write an adapter that stock `PeftModel.from_pretrained` loads.

    Args:
        model: the model with the adapter.
        folder: made if it does not exist.
        state: see `adapter_state`.
        base: what to call the base model in the adapter's config, such as a hub id; empty if None.
        name: of the adapter.

    Raises:
        ValueError: see `adapter_state`; or tensors are missing.
    """
    tensors = adapter_state(model, state, name=name)
    _check_whole(tensors.keys(), model, name, "the adapter to be saved")
    config: Any = copy.deepcopy(model.peft_config[name])
    config.base_model_name_or_path = base
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # the same bytes every time
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(folder)


def load_adapter(
    model: PreTrainedModel, folder: Path, *, trainable: bool = False, name: str = "default"
) -> PeftModel:
    """Put a saved adapter on its base model.

    Raises:
        ValueError: the folder holds no adapter, or one of another model.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"{folder} holds no LoRA adapter: it needs adapter_config.json and {WEIGHTS_FILE}"
        )
    try:
        adapted = PeftModel.from_pretrained(
            model, str(folder), adapter_name=name, is_trainable=trainable
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the adapter {folder} does not fit a {type(model).__name__} of this size: {error}"
        ) from error
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        _check_whole(file.keys(), adapted, name, f"the adapter {folder}")
    return adapted


def _check_whole(keys: Iterable[str], model: PeftModel, name: str, what: str) -> None:
    """Stock peft only warns of tensors that are missing or that nobody takes."""
    names = {parameter: torch.empty(1, 1) for parameter, _ in model.named_parameters()}
    expected = set(
        get_peft_model_state_dict(
            model, state_dict=names, adapter_name=name, save_embedding_layers=False
        )
    )
    given = set(keys)
    if given != expected:
        raise ValueError(
            f"{what} does not match the model: {len(expected - given)} tensors are missing, "
            f"{len(given - expected)} are unknown, such as "
            f"{sorted(given ^ expected)[0]}"
        )
