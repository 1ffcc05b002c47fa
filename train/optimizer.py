"""What the optimizer is given: parameter groups, and a learning rate for every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

ScheduleName = Literal[
    "cosine", "linear", "constant", "constant_with_warmup", "warmup_stable_decay"
]

DECAY_SHARE = 0.2
"""Share of all steps that `warmup_stable_decay` spends coming down, at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Learning rate at any step, with no state: resuming needs the step and nothing else."""

    name: ScheduleName
    peak: float
    """Highest learning rate."""
    warmup_steps: int
    """Steps that rise linearly to the peak; `constant` has none."""
    total_steps: int
    """Steps of the whole run: the schedule ends here."""
    floor_ratio: float = 0.0
    """Learning rate of the last step, as a share of the peak; not for the constant schedules."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update with this number; the first update is step 0."""
        warmup = 0 if self.name == "constant" else min(self.warmup_steps, self.total_steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        start = warmup
        if self.name == "warmup_stable_decay":
            start = max(warmup, round((1.0 - DECAY_SHARE) * self.total_steps))
        progress = (step - start) / max(1, self.total_steps - 1 - start)
        share = _SHAPES[self.name](min(1.0, max(0.0, progress)))
        return self.peak * (self.floor_ratio + (1.0 - self.floor_ratio) * share)


_SHAPES: dict[ScheduleName, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1.0 - progress,
    "constant": lambda _: 1.0,
    "constant_with_warmup": lambda _: 1.0,
    # The cooldown 1 - sqrt of Hägele et al. 2024 (arXiv 2405.18392), better than a linear one.
    "warmup_stable_decay": lambda progress: 1.0 - math.sqrt(progress),
}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices decay; vectors (norms, biases) do not.

    Raises:
        ValueError: nothing is trainable.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        # ZeRO-3 leaves a one-dimensional stub in place of a parameter that it took apart.
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (decayed if len(shape) > 1 else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(
            "no parameter of the model is trainable: every one has requires_grad=False. "
            "Choose finetuning_type full or lora"
        )
    return groups
