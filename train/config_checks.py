"""Combinations of config keys that cannot work, and the arithmetic of batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from train.errors import ConfigError

if TYPE_CHECKING:
    from train.config import TrainConfig

ZERO_PRESETS: Final = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
"""Short names of the DeepSpeed configs that `train.distributed.zero_config` derives."""


def check(config: TrainConfig) -> None:
    """Raise ConfigError for the first combination of keys that cannot work."""
    for one in _CHECKS:
        one(config)


def share_batch(config: TrainConfig, world_size: int) -> tuple[int, int]:
    """Trees of one optimiser step over all ranks, and micro-batches of it on each rank.

    Raises:
        ConfigError: `global_batch_size` does not divide, contradicts the accumulation, or is too
            small for `min_users_per_step`.
    """
    total, accumulation = _shared(config, world_size)
    _enough_users(config, total)
    return total, accumulation


def _shared(config: TrainConfig, world_size: int) -> tuple[int, int]:
    assert world_size >= 1
    per_device, accumulation = (
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
    )
    total = config.global_batch_size
    if total is None:
        steps = 1 if accumulation == "auto" else accumulation
        return per_device * steps * world_size, steps
    at_once = per_device * world_size
    if total % at_once:
        raise _indivisible(total, per_device, world_size)
    if accumulation not in ("auto", total // at_once):
        raise ConfigError(
            f"global_batch_size={total} on {world_size} rank(s) with "
            f"per_device_train_batch_size={per_device} takes gradient_accumulation_steps="
            f"{total // at_once}, but the config says {accumulation}. Set it to auto, or "
            f"global_batch_size to {at_once * int(accumulation)}.",
            keys=("gradient_accumulation_steps", "global_batch_size"),
        )
    return total, total // at_once


def _enough_users(config: TrainConfig, total: int) -> None:
    if total < config.min_users_per_step:
        raise ConfigError(
            f"a step has {total} trees, and so {total} users at most, but min_users_per_step="
            f"{config.min_users_per_step}. Set global_batch_size to {config.min_users_per_step} or "
            "more; accumulation follows from it.",
            keys=("global_batch_size", "min_users_per_step"),
        )


def _indivisible(total: int, per_device: int, world_size: int) -> ConfigError:
    at_once = per_device * world_size
    below, above = total // at_once * at_once, -(-total // at_once) * at_once
    totals = " or ".join(str(value) for value in (below, above) if value)
    cures = [f"global_batch_size to {totals}"]
    if total % world_size == 0:
        share = total // world_size
        fitting = [size for size in range(1, share + 1) if share % size == 0]
        nearest = sorted(sorted(fitting, key=lambda size: abs(size - per_device))[:2])
        cures.append(f"per_device_train_batch_size to {' or '.join(map(str, nearest))}")
    return ConfigError(
        f"global_batch_size={total} is not made of whole micro-batches: {world_size} rank(s) of "
        f"per_device_train_batch_size={per_device} take {at_once} trees at once. "
        f"Set {', or '.join(cures)}.",
        keys=("global_batch_size", "per_device_train_batch_size"),
    )


def _one_model(config: TrainConfig) -> None:
    name, shape = config.model_name_or_path, config.model
    if name is None and shape is None:
        raise ConfigError(
            "neither model_name_or_path nor model is given. Set model_name_or_path to weights to "
            "start from, or model to the shape of a decoder to build from scratch.",
            keys=("model_name_or_path", "model"),
        )
    if name is not None and shape is not None:
        raise ConfigError(
            f"model_name_or_path={name} and model are both given, and one run starts from one of "
            "them. Remove one; as an override: model=null or model_name_or_path=null.",
            keys=("model_name_or_path", "model"),
        )


def _lora(config: TrainConfig) -> None:
    names = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
    given = [name for name in names if getattr(config, name) is not None]
    if config.finetuning_type == "full" and given:
        raise ConfigError(
            f"{', '.join(given)} given with finetuning_type=full, where no adapter exists. "
            f"Set finetuning_type=lora, or remove {'it' if len(given) == 1 else 'them'}.",
            keys=(given[0], "finetuning_type"),
        )
    if config.finetuning_type == "lora" and config.model is not None:
        raise ConfigError(
            "finetuning_type=lora on a model from scratch would adapt random frozen weights. "
            "Set finetuning_type=full, or model_name_or_path to trained weights.",
            keys=("finetuning_type", "model"),
        )


def _store_weights(config: TrainConfig) -> None:
    weights, stores = config.mixture.store_weights, config.stores
    if len(set(stores)) < len(stores):
        twice = next(store for store in stores if stores.count(store) > 1)
        raise ConfigError(
            f"stores names {twice} twice. Name it once; mixture.store_weights says how often it "
            "is drawn.",
            keys=("stores",),
        )
    if weights and len(weights) != len(stores):
        raise ConfigError(
            f"mixture.store_weights has {len(weights)} weight(s) for {len(stores)} store(s). "
            "Give one for each store in the same order, or none.",
            keys=("mixture.store_weights", "stores"),
        )


def _batch(config: TrainConfig) -> None:
    """Refuse what no number of ranks can mend; the rest waits for the world size."""
    total, per_device = config.global_batch_size, config.per_device_train_batch_size
    if total is None:
        return
    _enough_users(config, total)
    if total % per_device:
        raise _indivisible(total, per_device, world_size=1)
    steps = config.gradient_accumulation_steps
    if steps != "auto" and total % (per_device * steps):
        raise ConfigError(
            f"global_batch_size={total} is no multiple of per_device_train_batch_size={per_device}"
            f" x gradient_accumulation_steps={steps}, on any number of ranks. "
            "Set gradient_accumulation_steps to auto.",
            keys=("gradient_accumulation_steps", "global_batch_size"),
        )


def _schedule(config: TrainConfig) -> None:
    kind = config.lr_scheduler_type
    if config.warmup_steps is not None and config.warmup_ratio is not None:
        raise ConfigError(
            f"warmup_steps={config.warmup_steps} and warmup_ratio={config.warmup_ratio} say the "
            "same thing twice. Keep one.",
            keys=("warmup_steps", "warmup_ratio"),
        )
    warmup = config.total_warmup_steps
    if kind == "constant" and warmup:
        raise ConfigError(
            f"lr_scheduler_type=constant has no warmup, but {warmup} warmup steps are given. "
            "Set lr_scheduler_type=constant_with_warmup, or remove the warmup.",
            keys=("lr_scheduler_type", "warmup_steps"),
        )
    if warmup > config.max_steps:
        raise ConfigError(
            f"{warmup} warmup steps do not fit into max_steps={config.max_steps}. Shorten them, or "
            "give warmup_ratio instead.",
            keys=("warmup_steps", "max_steps"),
        )
    if config.min_learning_rate_ratio and kind.startswith("constant"):
        raise ConfigError(
            f"min_learning_rate_ratio={config.min_learning_rate_ratio} with lr_scheduler_type="
            f"{kind}, which never falls. Remove it or choose a schedule that decays.",
            keys=("min_learning_rate_ratio", "lr_scheduler_type"),
        )


def _deepspeed(config: TrainConfig) -> None:
    name = config.deepspeed
    if name in ZERO_PRESETS or name.endswith(".json"):
        return
    near = get_close_matches(name.lower().replace("-", "_"), ZERO_PRESETS, n=1, cutoff=0.6)
    cure = f"Did you mean {near[0]}?" if near else ""
    if name in ("zero0_offload", "zero1_offload"):
        cure = "Offload needs a stage that shards what it moves: zero2_offload or zero3_offload."
    raise ConfigError(
        f"deepspeed={name} is neither a preset ({', '.join(ZERO_PRESETS)}) nor a path that ends "
        f"in .json. {cure}".rstrip(),
        keys=("deepspeed",),
    )


def _checkpoints(config: TrainConfig) -> None:
    resume = config.resume_from_checkpoint
    if config.save_only_model and resume is True:
        raise ConfigError(
            "save_only_model=true leaves the optimiser out of checkpoints, so "
            "resume_from_checkpoint=true would find nothing to resume from. Set one to false; to "
            "start anew from saved weights, set model_name_or_path to the run.",
            keys=("save_only_model", "resume_from_checkpoint"),
        )
    if config.overwrite_output_dir and resume is True:
        raise ConfigError(
            "overwrite_output_dir=true removes the run that resume_from_checkpoint=true would go "
            "on from. Set one to false.",
            keys=("overwrite_output_dir", "resume_from_checkpoint"),
        )


def _profile(config: TrainConfig) -> None:
    if config.profile_steps is None:
        return
    start, stop = config.profile_steps
    if not start < stop <= config.max_steps:
        raise ConfigError(
            f"profile_steps=[{start}, {stop}] is no range of steps within max_steps="
            f"{config.max_steps}. Give [start, stop] with start < stop <= max_steps.",
            keys=("profile_steps", "max_steps"),
        )


def _windows(config: TrainConfig) -> None:
    if not config.window_forgetting:
        return
    if config.mixture.history_window is None:
        raise ConfigError(
            "window_forgetting acts on histories with a window, and mixture.history_window is not "
            "set. Set it, or window_forgetting to 0.",
            keys=("window_forgetting", "mixture.history_window"),
        )
    if config.gradient_checkpointing:
        raise ConfigError(
            "window_forgetting changes states between layers, which gradient_checkpointing would "
            "compute again without it. Set one of them to its default.",
            keys=("window_forgetting", "gradient_checkpointing"),
        )


_CHECKS: Final[tuple[Callable[[TrainConfig], None], ...]] = (
    _one_model,
    _lora,
    _store_weights,
    _batch,
    _schedule,
    _deepspeed,
    _checkpoints,
    _profile,
    _windows,
)
