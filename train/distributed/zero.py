"""DeepSpeed behind a small front: the loop sees backward and step, and nothing of ZeRO's stages."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from train.distributed.context import DistributedContext, ensure_process_group

log = logging.getLogger(__name__)

_GATHER_ELEMENTS = 2**28
"""ZeRO-3 parameters brought together at a time when weights are saved: 1 GiB of fp32."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What an optimizer step did."""

    applied: bool
    """False where gradients were not finite: the weights and the optimizer state did not move."""
    grad_norm: float
    """Norm of the whole gradient before clipping; not finite where the step was not applied."""


class ZeroEngine:
    """A model under ZeRO-0, 1, 2 or 3. Every method is called by all ranks alike."""

    def __init__(self, engine: Any, context: DistributedContext, max_grad_norm: float) -> None:
        self._engine = engine
        self._context = context
        self._max_grad_norm = max_grad_norm
        self.stage = int(engine.zero_optimization_stage())
        self.bf16 = bool(engine.bfloat16_enabled())
        # A recovery script beside each checkpoint is not ours to ship, and copying it is the one
        # write that can fail on rank 0 alone while the others wait.
        engine._copy_recovery_script = lambda save_path: None

    @property
    def model(self) -> nn.Module:
        """What to call in training: the forward that prepares for `backward`."""
        return cast(nn.Module, self._engine)

    @property
    def module(self) -> nn.Module:
        """The bare model: for evaluation, for names and for configs."""
        return cast(nn.Module, self._engine.module)

    def set_last(self, last: bool) -> None:
        """Say, before its forward, whether a micro-batch is the last one of its step."""
        self._engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's gradient. The step's gradient is the mean of the ranks' sums."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next step, in every group."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self) -> StepOutcome:
        """Clip and update, unless the gradient of any rank is not finite."""
        if self.stage == 0 and not self.bf16:
            return self._plain_step()
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        norm = math.nan if norm is None else float(norm)
        return StepOutcome(bool(self._engine.was_step_applied()), norm)

    def _plain_step(self) -> StepOutcome:
        """ZeRO-0 in fp32 leaves norm, finiteness and clipping to us; clip as ZeRO-1 to 3 do."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self._engine.zero_grad()
            return StepOutcome(False, norm)
        if self._max_grad_norm > 0:
            shrink = 1.0 / max(1.0, (norm + 1e-6) / self._max_grad_norm)
            torch._foreach_mul_(gradients, shrink)
        self._engine.step()
        return StepOutcome(True, norm)

    @contextmanager
    def gathered(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """See these parameters whole, read only, inside the block; does nothing off ZeRO-3."""
        if self.stage < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield

    def full_state(self, *, trainable_only: bool = False) -> dict[str, torch.Tensor]:
        """Every weight, whole, on the CPU of rank 0; an empty dict on the other ranks.

        A parameter that stands under two names (a tied head) comes under the first.

        Args:
            trainable_only: leave out frozen parameters and all buffers.
        """
        state: dict[str, torch.Tensor] = {}
        named = [
            (name, parameter)
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad or not trainable_only
        ]
        for chunk in _chunks(named):
            with self.gathered(parameter for _, parameter in chunk):
                if self._context.is_main:
                    state |= {name: parameter.detach().cpu().clone() for name, parameter in chunk}
        if self._context.is_main and not trainable_only:
            for name, buffer in _saved_buffers(self.module):
                state[name] = buffer.detach().cpu().clone()
        return state

    def save_shards(self, folder: Path) -> None:
        """Write optimizer state and weights as DeepSpeed keeps them, each rank its part.

        A rank whose write fails still takes part in DeepSpeed's barriers, and raises afterwards:
        otherwise the other ranks would wait for it until the timeout.

        Raises:
            OSError, RuntimeError: this rank's file could not be written whole.
        """
        writer, failures = self._engine.checkpoint_engine, []
        write = writer.save

        def write_or_remember(state_dict: object, path: str) -> None:
            try:
                write(state_dict, path)
            except Exception as error:
                failures.append(error)

        writer.save = write_or_remember
        try:
            self._engine.save_checkpoint(
                str(folder.parent),
                tag=folder.name,
                save_latest=False,
                exclude_frozen_parameters=self._has_frozen(),
            )
        finally:
            writer.save = write
        if failures:
            raise failures[0]

    def load_shards(self, folder: Path) -> None:
        """Read back what `save_shards` wrote at the same world size and stage."""
        loaded, _ = self._engine.load_checkpoint(
            str(folder.parent),
            tag=folder.name,
            load_module_strict=not self._has_frozen(),
            load_lr_scheduler_states=False,
        )
        assert loaded is not None, f"DeepSpeed found nothing in {folder}"

    def _has_frozen(self) -> bool:
        return any(not parameter.requires_grad for parameter in self.module.parameters())

    def close(self) -> None:
        """Free the engine's buffers and hooks."""
        self._engine.destroy()


def initialize(
    model: nn.Module,
    groups: list[dict[str, Any]],
    settings: dict[str, Any],
    context: DistributedContext,
    *,
    timeout_seconds: float = 1800.0,
) -> ZeroEngine:
    """Put a model under ZeRO, with AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Without `partitioned_loading` every rank must have built the same weights; ZeRO-3 then takes
    them apart.

    Args:
        model: the whole model, with its trainable parameters marked.
        groups: parameter groups, each with its own `weight_decay`.
        settings: the DeepSpeed JSON as a dict without `auto`.
        context: this process's place.
        timeout_seconds: how long a collective may wait.
    """
    import deepspeed  # here and not above: it looks for its accelerator when it is imported

    ensure_process_group(context, timeout_seconds)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    max_grad_norm = float(settings.get("gradient_clipping", 0.0))
    optimizer = _adamw(groups, settings, context)
    settings = {name: value for name, value in settings.items() if name != "optimizer"}
    if _stage(settings) == 0 and not settings.get("bf16", {}).get("enabled", False):
        settings["gradient_clipping"] = 0.0  # _plain_step clips
    engine, *_ = deepspeed.initialize(
        model=model.to(context.device), optimizer=optimizer, config=settings
    )
    return ZeroEngine(engine, context, max_grad_norm)


def _adamw(
    groups: list[dict[str, Any]], settings: dict[str, Any], context: DistributedContext
) -> torch.optim.Optimizer:
    params = settings.get("optimizer", {}).get("params", {})
    options: dict[str, Any] = {
        "lr": 0.0,  # set before every step
        "betas": tuple(params.get("betas", (0.9, 0.999))),
        "eps": params.get("eps", 1e-8),
    }
    offload = settings.get("zero_optimization", {}).get("offload_optimizer") or {}
    if offload.get("device", "none") != "none":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return cast(torch.optim.Optimizer, DeepSpeedCPUAdam(groups, adamw_mode=True, **options))
    if context.device.type == "cuda" and not params.get("torch_adam"):
        try:
            from deepspeed.ops.adam import FusedAdam

            return cast(torch.optim.Optimizer, FusedAdam(groups, adam_w_mode=True, **options))
        except Exception as error:  # no nvcc on this machine: whatever the builder raises
            log.warning("DeepSpeed's FusedAdam cannot be built (%s): torch's fused AdamW", error)
            return torch.optim.AdamW(groups, fused=True, **options)
    return torch.optim.AdamW(groups, **options)  # DeepSpeed's would compile C++ on a CPU


@contextmanager
def partitioned_loading(
    settings: dict[str, Any], context: DistributedContext, timeout_seconds: float = 1800.0
) -> Iterator[None]:
    """Let transformers' `from_pretrained` read weights straight into ZeRO-3 partitions.

    For models that do not fit one process whole. Does nothing off stage 3. `deepspeed.zero.Init`
    alone is no substitute: it skips transformers' own weight initialisation.
    """
    if _stage(settings) < 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    ensure_process_group(context, timeout_seconds)
    # transformers keeps a weak reference: the integration lasts as long as this name.
    alive = HfDeepSpeedConfig(dict(settings))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del alive


def _stage(settings: dict[str, Any]) -> int:
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def _chunks(
    named: Sequence[tuple[str, nn.Parameter]],
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    chunk: list[tuple[str, nn.Parameter]] = []
    elements = 0
    for name, parameter in named:
        size = int(getattr(parameter, "ds_numel", parameter.numel()))
        if chunk and elements + size > _GATHER_ELEMENTS:
            yield chunk
            chunk, elements = [], 0
        chunk.append((name, parameter))
        elements += size
    if chunk:
        yield chunk


def _saved_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer
