"""A user's own DeepSpeed JSON: read strictly, and held against the run's config."""

import json
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from train.config_checks import ZERO_PRESETS
from train.errors import ConfigError

Settings = dict[str, Any]
AUTO: Final = "auto"

_REFUSED: Final[dict[str, str]] = {
    "bfloat16": "its name is bf16 now",
    "torch_autocast": "precision follows bf16",
    "scheduler": "the learning rate follows lr_scheduler_type and its companions",
    "elasticity": "it changes batch sizes; global_batch_size already holds on any world size",
    "tensor_parallel": "ranks hold whole layers or ZeRO shards of them, never slices of a matrix",
    "pipeline": "the model is not cut into pipeline stages",
    "data_efficiency": "what is trained on is the mixture's decision",
    "curriculum_learning": "what is trained on is the mixture's decision",
    "progressive_layer_drop": "every layer takes part in every step",
    "compression_training": "training on quantized or pruned weights is not supported",
}
"""Sections of DeepSpeed that would decide what the run's config decides."""

_KNOWN: Final = frozenset(
    {
        *_REFUSED,
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "bf16",
        "fp16",
        "amp",
        "optimizer",
        "zero_optimization",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "data_types",
        "communication_data_type",
        "seq_parallel_communication_data_type",
        "prescale_gradients",
        "gradient_predivide_factor",
        "sparse_gradients",
        "steps_per_print",
        "wall_clock_breakdown",
        "memory_breakdown",
        "dump_state",
        "activation_checkpointing",
        "aio",
        "checkpoint",
        "comms_logger",
        "flops_profiler",
        "csv_monitor",
        "tensorboard",
        "wandb",
        "compile",
        "zenflow",
    }
)
"""Top-level keys of DeepSpeed, which itself passes over a misspelt one in silence."""


def read_user_json(path: Path) -> Settings:
    """Read a DeepSpeed JSON.

    Raises:
        ConfigError: It does not exist, is no JSON object, has a key twice or a misspelt one, or a
            section that would change the result behind the config's back.
    """
    if not path.is_file():
        raise ConfigError(
            f"deepspeed={path}: no such file. Give the path of a DeepSpeed JSON, or one of "
            f"{', '.join(ZERO_PRESETS)}.",
            keys=("deepspeed",),
        )
    try:
        settings = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}, column {error.colno}: not readable as JSON: "
            f"{error.msg}. (JSON has no comments and no comma after the last entry.)",
            keys=("deepspeed",),
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", keys=("deepspeed",)) from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds no JSON object. Start it with {{.", keys=("deepspeed",))
    _refuse_unsupported(settings, path)
    return settings


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Settings:
    settings = dict(pairs)
    if len(settings) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice} stands twice in one object. Keep one of the two.")
    return settings


def _refuse_unsupported(settings: Settings, path: Path) -> None:
    for key in settings:
        if key in _REFUSED:
            raise ConfigError(
                f"{path}: section {key} is not supported: {_REFUSED[key]}. Remove it.",
                keys=("deepspeed",),
            )
        near = get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
        if key not in _KNOWN and near:
            raise ConfigError(
                f"{path}: DeepSpeed has no key {key} and would ignore it. Did you mean {near[0]}?",
                keys=("deepspeed",),
            )
    for key in ("bf16", "fp16", "optimizer", "zero_optimization"):
        if not isinstance(settings.get(key, {}), dict):
            raise ConfigError(
                f"{path}: {key} is {json.dumps(settings[key])}; it is a section. "
                f'Write {{...}} behind "{key}", or remove it.',
                keys=("deepspeed",),
            )
    kind = settings.get("optimizer", {}).get("type", "AdamW")
    if str(kind).lower() not in ("adamw", AUTO):
        raise ConfigError(
            f"{path}: optimizer.type is {kind}; the optimiser is AdamW, which adam_beta1 and its "
            "companions describe. Write AdamW, or remove the section.",
            keys=("deepspeed",),
        )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def refuse_contradictions(
    user: Settings, decided: Settings, *, owners: Mapping[str, str], source: str
) -> None:
    """Hold a user's JSON against what the run's config decides; `auto` agrees with everything.

    Args:
        user: The JSON.
        decided: Dotted key of the JSON -> the value that the config gives it.
        owners: Dotted key of the JSON -> the keys of the config that decide it.
        source: The file's name, for the message.

    Raises:
        ConfigError: The first number that stands in both and differs, with both values.
    """
    for key, theirs in _leaves(user):
        if key not in decided or theirs == AUTO or _equal(theirs, decided[key]):
            continue
        raise ConfigError(
            f"{source}: {key} is {json.dumps(theirs)}, but {owners[key]} in the config makes it "
            f'{json.dumps(decided[key])}. Write "auto" in the file, or make the two equal.',
            keys=(owners[key].partition(",")[0], "deepspeed"),
        )


def _equal(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return theirs is ours
    if isinstance(ours, list):
        same_length = isinstance(theirs, list) and len(theirs) == len(ours)
        return same_length and all(map(_equal, theirs, ours))
    return isinstance(theirs, int | float) and math.isclose(theirs, ours, rel_tol=1e-12)
