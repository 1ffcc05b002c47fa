"""The DeepSpeed JSON of a run, derived from its config: no number stands in two places.

A preset such as `zero2`, or a user's own file, is a template in which `auto` stands for what the
config, the device and the model's size decide. Nothing here imports deepspeed.
"""

import json
import logging
from pathlib import Path
from typing import Final

from train.config import TrainConfig
from train.config_checks import ZERO_PRESETS
from train.distributed.zero_json import AUTO, Settings, read_user_json, refuse_contradictions
from train.errors import ConfigError

log = logging.getLogger(__name__)

_OWNED: Final[dict[str, str]] = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "train_batch_size": "global_batch_size",
    "gradient_clipping": "max_grad_norm",
    "bf16.enabled": "bf16",
    "fp16.enabled": "bf16",
    "amp.enabled": "bf16",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.betas": "adam_beta1, adam_beta2",
    "optimizer.params.eps": "adam_epsilon",
    "optimizer.params.weight_decay": "weight_decay",
}
"""Keys of the JSON whose value the run's config decides, and by which key."""

_LARGEST_BUCKET: Final = 200_000_000
_SMALLEST_BUCKET: Final = 4_000_000


def template(preset: str) -> Settings:
    """A preset as DeepSpeed JSON with `auto` values; the same as the files of the recipes.

    Args:
        preset: One of `ZERO_PRESETS`.
    """
    stage, offload = int(preset[4]), preset.endswith("_offload")
    zero: Settings = {"stage": stage}
    if stage:
        zero |= {
            "overlap_comm": AUTO,
            "contiguous_gradients": True,
            "reduce_bucket_size": AUTO,
        }
    if stage in (1, 2):
        zero["allgather_bucket_size"] = AUTO
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": AUTO,
            "stage3_param_persistence_threshold": AUTO,
            "stage3_max_live_parameters": AUTO,
            "stage3_max_reuse_distance": AUTO,
            "stage3_gather_16bit_weights_on_model_save": AUTO,
        }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": AUTO}
    if offload and stage == 3:
        zero["offload_param"] = {"device": "cpu", "pin_memory": AUTO}
    adamw = ("lr", "betas", "eps", "weight_decay", "torch_adam")
    return {
        "train_batch_size": AUTO,
        "train_micro_batch_size_per_gpu": AUTO,
        "gradient_accumulation_steps": AUTO,
        "gradient_clipping": AUTO,
        "bf16": {"enabled": AUTO},
        "data_types": {"grad_accum_dtype": AUTO},
        "communication_data_type": AUTO,
        "optimizer": {"type": "AdamW", "params": dict.fromkeys(adamw, AUTO)},
        "zero_optimization": zero,
        "steps_per_print": AUTO,
    }


def zero_stage(config: TrainConfig) -> int:
    """The ZeRO stage that the run's preset or JSON file asks for.

    Raises:
        ConfigError: The JSON file cannot be read, or holds no stage from 0 to 3.
    """
    return _stage(_wanted(config), config.deepspeed)


def deepspeed_config(
    config: TrainConfig,
    *,
    world_size: int,
    device_type: str,
    bf16: bool,
    hidden_size: int,
    n_parameters: int,
    n_trainable: int | None = None,
) -> Settings:
    """Derive the whole DeepSpeed JSON of a run.

    Args:
        config: The run's config; its `deepspeed` is a preset or the path of a JSON file.
        world_size: Ranks of the run.
        device_type: `cpu`, `cuda`, ...
        bf16: The precision that was decided for this device.
        hidden_size: Width of the model.
        n_parameters: Weights of the model, frozen ones included.
        n_trainable: Weights that have gradients; none given: all of them.

    Returns:
        Plain values with no `auto` left, for `deepspeed.initialize(config=...)`.

    Raises:
        ConfigError: The batch cannot be shared among the ranks; or the user's JSON contradicts the
            config, with file, key and both values.
    """
    wanted = _wanted(config)
    stage = _stage(wanted, config.deepspeed)
    if bf16 and stage == 0:
        log.warning(
            "ZeRO-0 in bf16 sums gradients in bf16 and trains worse than deepspeed=zero1, "
            "which sums them in fp32 as zero2 and zero3 do"
        )
    decided = _decided(config, world_size=world_size, bf16=bf16)
    automatic = decided | {
        # Gradients are summed in fp32: bfloat16 keeps 8 bits, less than many micro-batches and
        # ranks need. ZeRO-0 has no place to keep fp32 sums, and raises.
        "data_types.grad_accum_dtype": "bf16" if bf16 and stage == 0 else "fp32",
        "communication_data_type": "fp32",
        "optimizer.params.torch_adam": device_type == "cpu",  # DeepSpeed's own would compile C++
        "steps_per_print": 1_000_000_000,
    }
    automatic |= {
        f"zero_optimization.{key}": value
        for key, value in _zero_values(
            device_type, hidden_size, n_parameters, n_trainable or n_parameters
        ).items()
    }
    if config.deepspeed not in ZERO_PRESETS:
        refuse_contradictions(wanted, decided, owners=_OWNED, source=config.deepspeed)
        wanted = _completed(wanted, stage)
    return _filled(wanted, automatic, config.deepspeed)


def _decided(config: TrainConfig, *, world_size: int, bf16: bool) -> Settings:
    """The value of each owned key, by dotted name."""
    batch = config.resolve_batch(world_size)
    return {
        "train_micro_batch_size_per_gpu": batch.per_device,
        "gradient_accumulation_steps": batch.accumulation,
        "train_batch_size": batch.total,
        "gradient_clipping": config.max_grad_norm,
        "bf16.enabled": bf16,
        "fp16.enabled": False,
        "amp.enabled": False,
        "optimizer.params.lr": config.learning_rate,
        "optimizer.params.betas": [config.adam_beta1, config.adam_beta2],
        "optimizer.params.eps": config.adam_epsilon,
        "optimizer.params.weight_decay": config.weight_decay,
    }


def _zero_values(
    device_type: str, hidden_size: int, n_parameters: int, n_trainable: int
) -> Settings:
    """Buckets that fit the model, in elements.

    DeepSpeed's defaults (5e8 and 1e9) are allocated whatever the model's size; under them a small
    model takes more memory in ZeRO-3 than in ZeRO-0.
    """
    on_cpu = device_type == "cpu"
    bucket = _bucket(n_trainable)
    layer = 12 * hidden_size**2  # attention and feed-forward of one layer, about
    live = max(_bucket(n_parameters), min(1_000_000_000, n_parameters // 4))
    return {
        "overlap_comm": not on_cpu,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": min(_bucket(n_parameters), layer),
        "stage3_param_persistence_threshold": 10 * hidden_size,
        "stage3_max_live_parameters": live,
        "stage3_max_reuse_distance": live,
        "stage3_gather_16bit_weights_on_model_save": True,
        "offload_optimizer.pin_memory": not on_cpu,
        "offload_param.pin_memory": not on_cpu,
    }


def _bucket(n_elements: int) -> int:
    """A tenth, so that sending overlaps with computing; not so small that latency rules."""
    tenth = min(max(n_elements // 10, _SMALLEST_BUCKET), _LARGEST_BUCKET)
    return max(1, min(tenth, n_elements))


def _wanted(config: TrainConfig) -> Settings:
    if config.deepspeed in ZERO_PRESETS:
        return template(config.deepspeed)
    return read_user_json(Path(config.deepspeed))


def _stage(settings: Settings, source: str) -> int:
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise ConfigError(
            f"{source}: zero_optimization.stage is {json.dumps(stage)}; write 0, 1, 2 or 3.",
            keys=("deepspeed",),
        )
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is False:
        raise ConfigError(
            f"{source}: zero_optimization.stage3_gather_16bit_weights_on_model_save is false, and "
            'the model could not be saved. Write true or "auto", or remove it.',
            keys=("deepspeed",),
        )
    return int(stage)


def _completed(user: Settings, stage: int) -> Settings:
    """A user's file with the keys that every run needs; tuning that it leaves out stays out."""
    preset = template(f"zero{stage}")
    needed = (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "optimizer",
        "steps_per_print",
    )
    complete = {key: preset[key] for key in needed} | user
    complete["bf16"] = {"enabled": AUTO} | user.get("bf16", {})
    params = {**preset["optimizer"]["params"], **complete["optimizer"].get("params", {})}
    complete["optimizer"] = {**complete["optimizer"], "type": "AdamW", "params": params}
    zero = {"stage": stage} | user.get("zero_optimization", {})
    if stage == 3:
        zero = {"stage3_gather_16bit_weights_on_model_save": AUTO} | zero
    complete["zero_optimization"] = zero
    return complete


def _filled(wanted: Settings, automatic: Settings, source: str, prefix: str = "") -> Settings:
    """Put a value in place of each `auto`."""
    filled: Settings = {}
    for key, value in wanted.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            filled[key] = _filled(value, automatic, source, f"{dotted}.")
        elif value != AUTO:
            filled[key] = value
        elif dotted in automatic:
            filled[key] = automatic[dotted]
        else:
            raise ConfigError(
                f'{source}: {dotted} is "auto", and nothing in the config decides it. '
                "Write a value, or remove it for DeepSpeed's default.",
                keys=("deepspeed",),
            )
    return filled
