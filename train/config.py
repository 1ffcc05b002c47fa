"""The config of a training run: one YAML file, checked before anything else is loaded.

Nothing here imports torch: a wrong key costs a fraction of a second, not a model's loading time.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from data_pipeline.files import fingerprint
from data_pipeline.mixture_config import MixtureConfig
from modeling.shape import ModelShape
from train import config_checks, config_io
from train.config_aliases import ALIASES
from train.errors import ConfigError
from train.provenance import provenance

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]

PROVENANCE: Final = "provenance"
"""The key of a saved config that says what made it; read over when the config is loaded."""


class BatchSizes(NamedTuple):
    """Trees of one optimiser step: `total = per_device * accumulation * world size`."""

    per_device: int
    accumulation: int
    total: int


class LoraSettings(NamedTuple):
    """What a LoRA adapter is made of, every value present."""

    rank: int
    alpha: int
    dropout: float
    target: str | tuple[str, ...]


@dataclass(
    frozen=True,
    kw_only=True,
    slots=True,
    config=ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    ),
)
class TrainConfig:
    """One training run.

    Raises:
        ValueError: A value out of bounds, or a combination that cannot work.
    """

    # --- what is trained ---

    model_name_or_path: Text | None = None
    """Weights to start from: a Hugging Face folder, a hub id, a run or checkpoint folder of
    Brewhouse, a `.gguf` file, or `package:NAME` for weights that a Python package carries. Exactly
    one of this and `model`."""

    model: ModelShape | None = None
    """Shape of a decoder to build from scratch. Exactly one of this and `model_name_or_path`."""

    finetuning_type: Literal["full", "lora"] = "full"
    """Train all weights, or a LoRA adapter beside frozen ones."""

    lora_rank: Positive | None = None
    """Rank of the adapter. With `lora` and nothing given: 16."""

    lora_alpha: Positive | None = None
    """Scale of the adapter; it is applied as `lora_alpha / lora_rank`. With `lora` and nothing
    given: twice the rank."""

    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout before the adapter. With `lora` and nothing given: 0."""

    lora_target: Literal["all-linear"] | Annotated[tuple[Text, ...], Field(min_length=1)] | None = (
        None
    )
    """Which linear layers get an adapter: `all-linear`, or a list of module names such as
    `[q_proj, v_proj]`. With `lora` and nothing given: `all-linear`, which leaves the head out."""

    # --- on what ---

    stores: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Folders of token stores, one or more; all compiled for the same tokenizer."""

    mixture: MixtureConfig = dataclasses.field(default_factory=MixtureConfig)
    """Which tasks are asked, how often, and of how much history."""

    label_loss: Literal["full_vocabulary", "label_tokens"] = "full_vocabulary"
    """Softmax at a label position over the whole vocabulary, or over the task's label tokens only.
    With `label_tokens` the head computes these tokens alone, and `label_mass` in training is
    estimated from every eighth question."""

    attn_layout: Literal["L2", "L0"] = "L2"
    """How the targets of a mixture are written, whichever they are. L2: each trunk once, with its
    branches attached to it. L0: one prompt per branch, with a copy of what it sees of the trunk:
    the same losses, slower; for checks."""

    window_forgetting: Annotated[float, Field(ge=0, le=1)] = 0.0
    """With `mixture.history_window`: how far the deep states of an event as old as the window are
    drawn back to its embedding while training, falling to 0 at the newest (distance-based
    forgetting of Dynamic Target Isolation); 0 leaves them."""

    plugins: tuple[Text, ...] = ()
    """Your own modules, by dotted name or as files that end in `.py`: imported first, in every
    process. Tasks, sources, metrics and students register in them. Modules that installed packages
    offer under the entry point group `brewhouse.plugins` need no mention."""

    # --- the run ---

    output_dir: Text
    """The run's folder."""

    overwrite_output_dir: bool = False
    """Whether a run that stands in `output_dir` may be removed first."""

    run_name: Text | None = None
    """Name shown in W&B. Empty: the last part of `output_dir`."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the mixture, the initial weights and dropout."""

    report_to: Literal["wandb", "none"] = "none"
    """Where metrics go besides `metrics.jsonl`. W&B runs offline when no key is set."""

    logging_steps: Positive = 10
    """Optimiser steps between two logged lines."""

    # --- the step ---

    max_steps: Positive
    """Optimiser steps of the whole run; a mixture has no end of its own."""

    per_device_train_batch_size: Positive = 8
    """Trees of one micro-batch on one device. Lower it when memory runs out."""

    gradient_accumulation_steps: Positive | Literal["auto"] = "auto"
    """Micro-batches of one optimiser step on one device. `auto`: what `global_batch_size` asks
    for, else 1."""

    global_batch_size: Positive | None = None
    """Trees of one optimiser step over all ranks. Stays the same on any number of ranks, and so
    does the result; accumulation is derived from it."""

    min_users_per_step: Positive = 1
    """Different users that one optimiser step should hold. A tree has one user at most, however
    many targets and tokens are packed behind it, so a step of fewer trees is refused, and one whose
    trees turn out to have fewer users is told of. `brewhouse tasks plan` counts the users of every
    step beforehand, `users_per_step` in `metrics.jsonl` afterwards."""

    bf16: bool | Literal["auto"] = "auto"
    """Train in bfloat16 with fp32 master weights. `auto`: on a GPU that supports it, never on
    CPU."""

    use_liger_kernel: bool | None = None
    """Run norms, feed-forward and rotary embedding through Liger's kernels. Empty: on a GPU where
    the extra `liger` is installed and knows the architecture."""

    torch_compile: bool = False
    """Compile the decoder layers, attention left out. The first step takes a minute more; not under
    ZeRO-3."""

    bind_cores_to_rank: bool = False
    """Keep each rank on its own share of the host's cores. For ranks that compute on CPUs."""

    gradient_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass: less memory, about a third more
    time."""

    # --- the optimiser ---

    learning_rate: PositiveNumber
    """Peak learning rate of AdamW."""

    lr_scheduler_type: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "warmup_stable_decay"
    ] = "cosine"
    """How the learning rate moves after the warmup; `warmup_stable_decay` falls in the last
    fifth."""

    warmup_steps: Count | None = None
    """Steps of linear warmup from 0. Not together with `warmup_ratio`."""

    warmup_ratio: Share | None = None
    """Share of `max_steps` that is warmup. Not together with `warmup_steps`."""

    min_learning_rate_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Learning rate at the last step as a share of the peak; for schedules that decay."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of matrices; norms and biases are left out."""

    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean of gradients."""

    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of squared gradients."""

    adam_epsilon: PositiveNumber = 1e-8
    """Added to the root of the mean square."""

    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them alone."""

    deepspeed: Text = "zero2"
    """`zero0`, `zero1`, `zero2`, `zero3`, `zero2_offload`, `zero3_offload`, or the path of a
    DeepSpeed JSON file whose values may be `auto`."""

    # --- evaluation and checkpoints ---

    eval_strategy: Literal["no", "steps"] = "no"
    """Whether validation targets are scored during training."""

    eval_steps: Positive = 500
    """Optimiser steps between two evaluations."""

    eval_max_targets: Positive = 256
    """Validation targets of each task and store at most."""

    save_steps: Positive = 500
    """Optimiser steps between two checkpoints; the last step always has one."""

    save_total_limit: Positive | None = None
    """Checkpoints to keep, newest first. Empty: all."""

    save_only_model: bool = False
    """Leave the optimiser out of checkpoints: far smaller, and not resumable."""

    resume_from_checkpoint: bool | Text = False
    """true: go on from the newest complete checkpoint in `output_dir`, or start when there is
    none. A path: go on from that checkpoint."""

    # --- guards and tools ---

    max_nonfinite_steps: Count = 3
    """Bad steps in a row that are skipped before the run stops: those whose loss or gradient is
    not finite, and spikes."""

    loss_spike_factor: Annotated[float, Field(gt=1)] | None = None
    """Skip a step whose loss exceeds this many times the median of `loss_spike_window` steps.
    Empty: never."""

    loss_spike_window: Annotated[int, Field(ge=2)] = 50
    """Steps whose median loss is the measure of a spike."""

    profile_steps: tuple[Count, Positive] | None = None
    """`[start, stop]`: write a profiler trace of the steps from start to before stop."""

    ddp_timeout: Positive = 1800
    """Seconds that a collective waits for the slowest rank before the run fails."""

    dataloader_prefetch: Count = 4
    """Micro-batches assembled ahead; 0 assembles each when it is asked for."""

    dataloader_num_workers: Count = 0
    """Processes beside each rank that assemble micro-batches. 0: a thread of the rank does, which
    suffices unless `data_wait_share` in `metrics.jsonl` says otherwise."""

    balance_micro_batches: bool = True
    """Deal out the trees of a step so that micro-batches cost equally much, attention included,
    over ranks and accumulation. The step's trees, its loss and its gradient are the same either
    way. `imbalance` in `metrics.jsonl` says what is left, `imbalance_strided` what there would be
    without."""

    @model_validator(mode="after")
    def _complete_and_consistent(self) -> Self:
        config_checks.check(self)
        if self.finetuning_type == "lora":
            rank = self.lora_rank or 16
            filled = {
                "lora_rank": rank,
                "lora_alpha": self.lora_alpha or 2 * rank,
                "lora_dropout": self.lora_dropout or 0.0,
                "lora_target": self.lora_target or "all-linear",
            }
            for name, value in filled.items():
                object.__setattr__(self, name, value)  # frozen for everyone else from here on
        return self

    @property
    def lora(self) -> LoraSettings | None:
        """The adapter to train; None when all weights are trained."""
        if self.finetuning_type == "full":
            return None
        rank, alpha, target = self.lora_rank, self.lora_alpha, self.lora_target
        assert rank is not None  # filled in at construction, as the others are
        assert alpha is not None
        assert target is not None
        return LoraSettings(rank, alpha, self.lora_dropout or 0.0, target)

    @property
    def total_warmup_steps(self) -> int:
        """Steps of warmup, whichever of the two keys gave them."""
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * self.max_steps)
        return self.warmup_steps or 0

    def resolve_batch(self, world_size: int) -> BatchSizes:
        """Share a global step among ranks.

        Raises:
            ConfigError: `global_batch_size` does not divide, or contradicts the accumulation.
        """
        total, accumulation = config_checks.share_batch(self, world_size)
        return BatchSizes(self.per_device_train_batch_size, accumulation, total)

    def resolve_bf16(self, device_type: str, *, supported: bool) -> bool:
        """Decide the precision for a device; `supported` says whether it computes in bfloat16.

        Raises:
            ConfigError: `bf16: true` on a GPU without bfloat16.
        """
        if self.bf16 == "auto":
            return device_type != "cpu" and supported
        if self.bf16 and device_type == "cpu":
            log.warning("bf16: true on a CPU is many times slower than fp32; auto would take fp32")
        elif self.bf16 and not supported:
            raise ConfigError(
                f"bf16: true, but this {device_type} device does not compute in bfloat16. "
                "Set bf16=false for fp32, or use a GPU that does (NVIDIA: Ampere or newer).",
                keys=("bf16",),
            )
        return bool(self.bf16)

    def resolve_liger(self, device_type: str, *, installed: bool) -> bool:
        """Decide whether Liger's kernels are to run on a device.

        Raises:
            ConfigError: `use_liger_kernel: true` where they cannot.
        """
        possible = device_type == "cuda" and installed
        if self.use_liger_kernel and not possible:
            lacking = (
                "the package liger-kernel is not installed: pip install 'brewhouse[liger]'"
                if device_type == "cuda"
                else f"this run computes on {device_type}, and they are written for GPUs"
            )
            raise ConfigError(
                f"use_liger_kernel: true, but {lacking}. Empty takes them where they can run.",
                keys=("use_liger_kernel",),
            )
        return possible and self.use_liger_kernel is not False


_UNCHANGED_BY: Final = frozenset(
    {
        "stores",
        "output_dir",
        "overwrite_output_dir",
        "run_name",
        "report_to",
        "logging_steps",
        "eval_strategy",
        "eval_steps",
        "eval_max_targets",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "resume_from_checkpoint",
        "max_nonfinite_steps",
        "profile_steps",
        "min_users_per_step",
        "ddp_timeout",
        "dataloader_prefetch",
        "dataloader_num_workers",
        "balance_micro_batches",
        "use_liger_kernel",
        "torch_compile",
        "bind_cores_to_rank",
        "gradient_checkpointing",
        "attn_layout",
        "deepspeed",
    }
)
"""Keys that change where a run writes, how it is watched or how it is computed, not its result
beyond rounding. The stores count through the mixture's own fingerprint: by content, not by path."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's YAML file, apply `key=value` overrides, and check the whole.

    Args:
        path: The YAML file. `RUN/config.yaml` works too: what it says of its making is read over.
        overrides: `max_steps=100`, `mixture.targets_per_tree=8`, `model=null`, ...; later ones win.

    Raises:
        ConfigError: All that is wrong with it, each with file and line or override.
    """
    data, origins = config_io.read_yaml_file(Path(path))
    data.pop(PROVENANCE, None)
    for override in overrides:
        config_io.apply_override(data, origins, override)
    return config_io.build(TrainConfig, data, origins, aliases=ALIASES)


def with_absolute_paths(config: TrainConfig, base: Path) -> TrainConfig:
    """Make each path absolute, taken from `base`, so that workers may run in any folder.

    A `model_name_or_path` that names nothing under `base` stays: a hub id, or `package:NAME`.
    """
    changes: dict[str, Any] = {
        "stores": tuple(str(base / store) for store in config.stores),
        "output_dir": str(base / config.output_dir),
        "plugins": tuple(
            str(base / name) if name.endswith(".py") else name for name in config.plugins
        ),
    }
    if config.deepspeed not in config_checks.ZERO_PRESETS:
        changes["deepspeed"] = str(base / config.deepspeed)
    for key in ("model_name_or_path", "resume_from_checkpoint"):
        given = getattr(config, key)
        if isinstance(given, str) and (base / given).exists():
            changes[key] = str(base / given)
    return dataclasses.replace(config, **changes)


def to_yaml(config: TrainConfig) -> str:
    """The config as YAML with every key; `load_config` reads an equal one back."""
    return config_io.dump_yaml(config_io.plain(config))


def resolved(config: TrainConfig, extras: dict[str, Any] | None = None) -> str:
    """The text of `RUN/config.yaml`: every key, and under `provenance` what made the run.

    Args:
        config: The run's config.
        extras: More for `provenance`, such as fingerprints: text, numbers, lists, mappings.
    """
    made_by = provenance() | {"config_fingerprint": config_fingerprint(config)} | (extras or {})
    return config_io.dump_yaml(config_io.plain(config) | {PROVENANCE: made_by})


def config_schema() -> dict[str, Any]:
    """JSON schema of the YAML file, with the docstrings as descriptions."""
    schema = TypeAdapter(TrainConfig).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"][PROVENANCE] = {
        "type": "object",
        "description": "What made a saved config: commit, versions, fingerprints. Not read.",
    }
    return schema


def config_fingerprint(config: TrainConfig) -> str:
    """Hash what changes the trained weights beyond rounding; not paths, logging or saving.

    With `global_batch_size`, how it is shared among devices does not count either.
    """
    counted = {
        key: value for key, value in config_io.plain(config).items() if key not in _UNCHANGED_BY
    }
    counted["plugins"] = [Path(name).name for name in config.plugins]  # a file, wherever it lies
    counted["warmup_steps"] = config.total_warmup_steps
    del counted["warmup_ratio"]
    if config.global_batch_size is not None:
        del counted["per_device_train_batch_size"], counted["gradient_accumulation_steps"]
    return fingerprint(counted)
