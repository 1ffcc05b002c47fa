"""Settings of an evaluation; nothing is loaded here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.tasks.base import Kind
from train.evaluation.bootstrap import BootstrapConfig

MAX_NEW_TOKENS = 64
"""Tokens of a text that a model writes, at most. A constant, so that two results compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is asked, how much of it, and against whom."""

    phase: Literal["validation", "test"] = "test"
    """Which part of the split the targets come from."""
    phrasing: Literal["trained", "held_out"] = "trained"
    """Instructions that training used, or those that it never saw."""
    max_targets: int = 400
    """Targets of each task and corpus at most."""
    max_title_targets: int = 60
    """The same for tasks that rank the whole catalog by likelihood or write a text, which cost far
    more."""
    max_ranked_titles: int = 120_000
    """Titles that are ranked for each task and corpus at most: a larger catalog is asked fewer
    targets, one at least, and each is still ranked among all of it."""
    whole_impressions: bool = False
    """Ask `click` about all that was shown in a request, or nothing of it, so that ranks within an
    impression are those that papers publish. Otherwise about a few items of many users, and such
    ranks are called sampled."""
    calibration_targets: int = 200
    """Validation targets of each task, at most, that its temperature is fitted on; 0 fits none.
    Tasks answered by a title or a text have none."""
    seed: int = 0
    """Seed of the questions and of the baselines."""
    baseline_trees: int = 3000
    """Trees of the training mixture whose questions the baselines are fitted on."""
    max_tokens: int = 8192
    """Tokens of one micro-batch while scoring."""
    with_baselines: bool = True
    """Whether the tasks' baselines are fitted and scored."""
    with_untrained: bool = True
    """Whether the untrained backbone is scored on the same targets."""
    baseline_trials: int = 3
    """Settings that each sequence baseline tries on validation. 1 takes its first ones untried, and
    little patience: quick, but no opponent to boast of beating."""
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    """How intervals are drawn."""

    def most_targets(self, kind: Kind, catalog_items: int) -> int:
        """Targets of a task and corpus at most, by how it is answered and of how many items."""
        if kind not in ("title", "text"):
            return self.max_targets
        most = min(self.max_targets, self.max_title_targets)
        if kind == "title":
            most = min(most, max(1, self.max_ranked_titles // max(1, catalog_items)))
        return most

    def __post_init__(self) -> None:
        least = dict.fromkeys(
            (
                *("max_targets", "max_title_targets", "max_ranked_titles", "baseline_trees"),
                *("max_tokens", "baseline_trials"),
            ),
            1,
        )
        for name, lowest in {**least, "calibration_targets": 0}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least {lowest}")
