"""What a run folder holds and when it may be written; known without loading torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from train.config import TrainConfig, config_fingerprint
from train.errors import CheckpointError

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
FINISHED = "finished"
_OURS = (
    *(CONFIG, METRICS, SUMMARY, FINISHED, "latest", "report.html", "report.md"),
    *("logs", "wandb", "profile", "evaluation", "exports", "checkpoint-*", ".checkpoint-*"),
)
"""Everything that a run and the commands on it write."""


def refuse_occupied(config: TrainConfig) -> None:
    """Refuse to start in a folder where a run stands, unless it goes on or may be removed.

    Raises:
        CheckpointError: says so, with the three ways out.
    """
    run = Path(config.output_dir)
    occupied = (run / METRICS).exists() or any(run.glob("checkpoint-*"))
    if occupied and not (config.resume_from_checkpoint or config.overwrite_output_dir):
        raise CheckpointError(
            f"{run} holds a run already. Set resume_from_checkpoint=true to go on with it, "
            "overwrite_output_dir=true to remove it first, or another output_dir"
        )


def remove_run(run: Path) -> None:
    """Remove what a run wrote, and nothing else that may stand in the folder."""
    for pattern in _OURS:
        for path in run.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_finished(config: TrainConfig) -> bool:
    """Whether the run of this config came to its last step."""
    try:
        marker: dict[str, Any] = json.loads((Path(config.output_dir) / FINISHED).read_text())
    except (OSError, ValueError):
        return False
    return marker.get("config_fingerprint") == config_fingerprint(config)
