import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from train.config import TrainConfig
from train.config_checks import ZERO_PRESETS
from train.distributed.zero_config import deepspeed_config, template, zero_stage
from train.errors import ConfigError

# What users of other trainers bring along: ZeRO-3 with a scheduler-free optimizer section.
HF_STYLE = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "zero_allow_untested_optimizer": True,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": True,
}


def config(deepspeed: str = "zero2", **changes: Any) -> TrainConfig:
    needed: dict[str, Any] = {
        "model_name_or_path": "some/model",
        "stores": ("data/store",),
        "output_dir": "runs/x",
        "max_steps": 100,
        "learning_rate": 3e-4,
        "global_batch_size": 64,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
    }
    return TrainConfig(deepspeed=deepspeed, **needed | changes)


def derive(made: TrainConfig, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "world_size": 2,
        "device_type": "cpu",
        "bf16": False,
        "hidden_size": 192,
        "n_parameters": 3_000_000,
    }
    return deepspeed_config(made, **given | changes)


def written(folder: Path, settings: Any) -> str:
    path = folder / "ds.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings), "utf-8")
    return str(path)


def refused(made: TrainConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        derive(made)
    return str(caught.value)


def test_zero2_on_cpu_in_full() -> None:
    assert derive(config()) == {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 3e-4,
                "betas": [0.9, 0.95],
                "eps": 1e-8,
                "weight_decay": 0.1,
                "torch_adam": True,
            },
        },
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": 3_000_000,
            "allgather_bucket_size": 3_000_000,
        },
        "steps_per_print": 1_000_000_000,
    }


@pytest.mark.parametrize("preset", ZERO_PRESETS)
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("bf16", [True, False])
def test_every_preset_is_complete_and_deepspeed_takes_it(
    preset: str, device_type: str, bf16: bool
) -> None:
    settings = derive(config(preset), device_type=device_type, bf16=bf16)
    assert '"auto"' not in json.dumps(settings)
    zero = settings["zero_optimization"]
    assert zero["stage"] == zero_stage(config(preset)) == int(preset[4])
    assert ("offload_optimizer" in zero) is preset.endswith("offload")
    assert ("offload_param" in zero) is (preset == "zero3_offload")
    assert settings["bf16"]["enabled"] is bf16
    assert settings["optimizer"]["params"]["torch_adam"] is (device_type == "cpu")
    if "offload_optimizer" in zero:
        assert zero["offload_optimizer"]["pin_memory"] is (device_type == "cuda")
    if zero["stage"] == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    # DeepSpeed forbids unknown keys in this section only; it is what can be checked without a run.
    zero_module = pytest.importorskip("deepspeed.runtime.zero.config")
    parsed = zero_module.DeepSpeedZeroConfig(**copy.deepcopy(zero))
    assert parsed.stage == zero["stage"]


def test_zero0_in_bf16_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert derive(config("zero1"), bf16=True)["data_types"] == {"grad_accum_dtype": "fp32"}
    assert not caplog.records
    assert derive(config("zero0"), bf16=True)["data_types"] == {"grad_accum_dtype": "bf16"}
    assert "trains worse than deepspeed=zero1" in caplog.text


@pytest.mark.parametrize(
    ("n_parameters", "hidden_size", "reduce", "prefetch", "live"),
    [
        (1_000, 8, 1_000, 768, 1_000),
        (3_000_000, 192, 3_000_000, 442_368, 3_000_000),
        (134_515_008, 576, 13_451_500, 3_981_312, 33_628_752),
        (8_000_000_000, 4096, 200_000_000, 200_000_000, 1_000_000_000),
        (70_000_000_000, 8192, 200_000_000, 200_000_000, 1_000_000_000),
    ],
)
def test_buckets_are_sized_to_the_model(
    n_parameters: int, hidden_size: int, reduce: int, prefetch: int, live: int
) -> None:
    zero = derive(config("zero3"), n_parameters=n_parameters, hidden_size=hidden_size)[
        "zero_optimization"
    ]
    assert zero["reduce_bucket_size"] == reduce <= n_parameters
    assert zero["stage3_prefetch_bucket_size"] == prefetch <= n_parameters
    assert zero["stage3_max_live_parameters"] == zero["stage3_max_reuse_distance"] == live
    assert zero["stage3_param_persistence_threshold"] == 10 * hidden_size


def test_an_adapter_needs_small_gradient_buckets_only() -> None:
    zero = derive(config("zero3"), n_parameters=8 * 10**9, hidden_size=4096, n_trainable=10**6)[
        "zero_optimization"
    ]
    assert zero["reduce_bucket_size"] == 10**6
    assert zero["stage3_prefetch_bucket_size"] == 200_000_000


def test_batch_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Set global_batch_size to 48 or 72"):
        derive(config(), world_size=3)


# --- a user's own JSON ---


@pytest.mark.parametrize("preset", ZERO_PRESETS)
def test_own_json_of_a_preset_derives_the_same(tmp_path: Path, preset: str) -> None:
    own = written(tmp_path, template(preset))
    assert derive(config(own)) == derive(config(preset))
    assert zero_stage(config(own)) == int(preset[4])


def test_json_of_other_trainers_is_filled_in_and_keeps_its_tuning(tmp_path: Path) -> None:
    settings = derive(config(written(tmp_path, HF_STYLE)), device_type="cuda", bf16=True)
    preset = derive(config("zero3"), device_type="cuda", bf16=True)
    assert settings["fp16"] == {"enabled": False, "loss_scale": 0, "initial_scale_power": 16}
    assert settings["bf16"] == {"enabled": True}
    assert settings["wall_clock_breakdown"] is True
    assert settings["train_batch_size"] == 64
    assert settings["optimizer"] == preset["optimizer"]
    zero = settings["zero_optimization"]
    assert zero["overlap_comm"] is False
    assert zero["stage3_max_live_parameters"] == 1e9
    assert zero["reduce_bucket_size"] == preset["zero_optimization"]["reduce_bucket_size"]
    assert "data_types" not in settings  # what the file leaves out stays DeepSpeed's default


def test_the_smallest_json_gets_what_every_run_needs(tmp_path: Path) -> None:
    own = written(tmp_path, {"zero_optimization": {"stage": 3}})
    settings = derive(config(own))
    assert settings["zero_optimization"] == {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    assert settings["gradient_clipping"] == 1.0
    assert settings["optimizer"]["params"]["torch_adam"] is True
    assert zero_stage(config(written(tmp_path, {}))) == 0


def test_equal_numbers_are_no_contradiction(tmp_path: Path) -> None:
    own = HF_STYLE | {"gradient_clipping": 1, "train_batch_size": 64.0}
    own["optimizer"] = {"type": "AdamW", "params": {"lr": 0.0003, "betas": [0.9, 0.95]}}
    settings = derive(config(written(tmp_path, own)))
    assert settings["optimizer"]["params"]["lr"] == 3e-4
    assert settings["optimizer"]["params"]["eps"] == 1e-8


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but max_grad_norm in the config"),
        ({"gradient_clipping": 0.5}, 'makes it 1.0. Write "auto" in the file, or make the two'),
        ({"train_batch_size": 32}, "train_batch_size is 32, but global_batch_size in the config"),
        ({"train_micro_batch_size_per_gpu": 4}, "per_device_train_batch_size in the config makes"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1, but gradient_a"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is true, but bf16 in the config makes it fal"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true, but bf16 in the config makes it fal"),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
            "optimizer.params.lr is 0.001, but learning_rate in the config makes it 0.0003",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.999]}}},
            "betas is [0.9, 0.999], but adam_beta1, adam_beta2 in the config makes it [0.9, 0.95]",
        ),
        ({"optimizer": {"type": "Lion"}}, "optimizer.type is Lion; the optimiser is AdamW"),
        ({"scheduler": {"type": "WarmupLR"}}, "section scheduler is not supported: the learning"),
        ({"elasticity": {"enabled": True}}, "section elasticity is not supported"),
        ({"bfloat16": {"enabled": True}}, "its name is bf16 now"),
        ({"bf16": True}, 'bf16 is true; it is a section. Write {...} behind "bf16"'),
        (
            {"gradient_cliping": 1.0},
            "no key gradient_cliping and would ignore it. Did you mean gra",
        ),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4; write 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage is true"),
        (
            {
                "zero_optimization": {
                    "stage": 3,
                    "stage3_gather_16bit_weights_on_model_save": False,
                }
            },
            "is false, and the model could not be saved",
        ),
        (
            {"zero_optimization": {"stage": 2, "sub_group_size": "auto"}},
            'zero_optimization.sub_group_size is "auto", and nothing in the config decides it',
        ),
    ],
)
def test_contradictions_name_file_key_and_both_values(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    own = written(tmp_path, HF_STYLE | change)
    text = refused(config(own))
    assert expected in text
    assert own in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "line 1, column 2: not readable as JSON"),
        ('{"bf16": {"enabled": true},}', "no comma after the last entry"),
        ("[]", "holds no JSON object"),
        ('{"gradient_clipping": 1, "gradient_clipping": 2}', "gradient_clipping stands twice"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: str, expected: str) -> None:
    own = written(tmp_path, content)
    text = refused(config(own))
    assert expected in text
    assert own in text


def test_a_missing_file_names_the_presets(tmp_path: Path) -> None:
    made = config(str(tmp_path / "none.json"))
    assert "no such file. Give the path of a DeepSpeed JSON, or one of zero0, zero1" in refused(
        made
    )
    assert dataclasses.replace(made, deepspeed="zero1")  # the config itself does not touch files
