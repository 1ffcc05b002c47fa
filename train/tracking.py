"""Where a run's numbers go: `metrics.jsonl`, Weights & Biases, the progress view.

Lines of metrics.jsonl are `{"step": ..., "loss": ..., "tasks": {...}, ...}` for training and
`{"step": ..., "evaluation": {...}}` for validation targets. The other ranks hold a tracker without
sinks: they call it alike and nothing happens.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from data_pipeline.files import atomic_write
from train.progress import ProgressView

log = logging.getLogger(__name__)

Line = dict[str, Any]
_NESTED = ("tasks", "corpora")
PERFORMANCE = ("targets_per_s", "tokens_per_s", "padding_share", "memory_mb", "mfu", "seconds")


class Sink(Protocol):
    """A place where lines go."""

    def log(self, line: Line) -> None:
        """Take a line of training or evaluation."""
        ...

    def show_examples(self, step: int, rows: Sequence[Line]) -> None:
        """Take a few prompts with answers and predicted probabilities."""
        ...

    def close(self, exit_code: int) -> None:
        """The run ended."""
        ...


class Tracker:
    """Hands every line to every sink. With none it is the tracker of a rank that writes nothing."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = sinks

    def log(self, line: Line) -> None:
        """Record a line."""
        for sink in self._sinks:
            sink.log(line)

    def show_examples(self, step: int, rows: Sequence[Line]) -> None:
        """Record a few prompts."""
        for sink in self._sinks:
            sink.show_examples(step, rows)

    def close(self, exit_code: int = 0) -> None:
        """End every sink, the last one first."""
        for sink in reversed(self._sinks):
            sink.close(exit_code)


class JsonlSink:
    """One JSON object per line, flushed line by line.

    Args:
        path: the file.
        step: steps done already. Lines beyond it, of a sitting that was killed after its last
            checkpoint, are dropped: steps only rise.
    """

    def __init__(self, path: Path, *, step: int = 0) -> None:
        if path.exists():
            kept = [text for text in path.read_text().splitlines() if _step_of(text) <= step]
            atomic_write(path, "".join(f"{text}\n" for text in kept) if step else "")
        self._file = path.open("a", encoding="utf-8")

    def log(self, line: Line) -> None:
        """Append a line; numbers that are not finite become null, which JSON knows."""
        self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self._file.flush()

    def show_examples(self, step: int, rows: Sequence[Line]) -> None:
        """Prompts are for people; not here."""

    def close(self, exit_code: int) -> None:
        """Close the file."""
        self._file.close()


class ProgressSink:
    """Moves the progress view."""

    def __init__(self, view: ProgressView, *, step: int = 0) -> None:
        self._view = view
        self._step = step

    def log(self, line: Line) -> None:
        """Advance to the line's step."""
        if "evaluation" in line:
            log.info("step %d: validation loss %.4f", line["step"], line["evaluation"]["loss"])
            return
        note = f"loss {line['loss']:.4f}, {line['targets_per_s']:.0f} targets/s"
        self._view.advance(line["step"] - self._step, note=note)
        self._step = line["step"]

    def show_examples(self, step: int, rows: Sequence[Line]) -> None:
        """Prompts do not fit a bar."""

    def close(self, exit_code: int) -> None:
        """Leave the view as it stands."""
        self._view.close()


class WandbSink:
    """One Weights & Biases run, gone on with after a resume; offline where no key is set.

    Args:
        folder: the run folder; W&B writes to its subfolder `wandb`.
        name: name of the run.
        config: the resolved config.
        run_id: id of the W&B run to go on with; None starts one.
    """

    def __init__(
        self, folder: Path, *, name: str, config: dict[str, Any], run_id: str | None
    ) -> None:
        import wandb

        self._wandb = wandb
        options: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", "brewhouse"),
            "name": name,
            "config": config,
            "dir": str(folder),
            "id": run_id or secrets.token_hex(4),
            "resume": "allow",
            # The progress bar and metrics.jsonl say it all; W&B's own summary would drown them.
            "settings": wandb.Settings(silent=True),
        }
        try:
            self._run = wandb.init(**options, mode=_wandb_mode())
        except Exception as error:  # a dead network must not cost a training run
            log.warning("W&B cannot be reached (%s); this run is logged offline", error)
            self._run = wandb.init(**options, mode="offline")
        self.run_id: str = self._run.id
        self._run.define_metric("step")
        for group in ("train/*", "eval/*", "perf/*"):
            self._run.define_metric(group, step_metric="step")

    def log(self, line: Line) -> None:
        """Send a line under the keys of `wandb_keys`."""
        self._run.log(wandb_keys(line))

    def show_examples(self, step: int, rows: Sequence[Line]) -> None:
        """Send a table of prompts."""
        if rows:
            columns: list[str | int] = list(rows[0])
            table = self._wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
            self._run.log({"step": step, "eval/prompts": table})

    def close(self, exit_code: int) -> None:
        """Finish the W&B run."""
        self._run.finish(exit_code=exit_code)


def wandb_keys(line: Line) -> dict[str, float | int]:
    """A line under W&B's flat names.

    They are train/loss, train/task/NAME/loss, eval/..., perf/..., and where there are several
    corpora train/corpus/CORPUS/task/NAME/loss.
    """
    if "evaluation" in line:
        return {"step": line["step"], **_under("eval", line["evaluation"])}
    training = {key: value for key, value in line.items() if key not in (*PERFORMANCE, "step")}
    performance = {key: line[key] for key in PERFORMANCE if key in line}
    return {"step": line["step"], **_under("train", training), **_under("perf", performance)}


def _under(prefix: str, values: Line) -> dict[str, float | int]:
    flat = {f"{prefix}/{key}": value for key, value in values.items() if key not in _NESTED}
    for corpus, tasks in values.get("corpora", {}).items():
        flat |= _under(f"{prefix}/corpus/{corpus}", {"tasks": tasks})
    for task, numbers in values.get("tasks", {}).items():
        flat |= {f"{prefix}/task/{task}/{key}": value for key, value in numbers.items()}
    return flat


def _wandb_mode() -> Literal["offline"] | None:
    """Offline where no key is known; None leaves it to W&B and to what the user set."""
    if "WANDB_MODE" in os.environ:
        return None
    import wandb

    return None if wandb.login(prompt=False, verify=False) else "offline"


def _step_of(text: str) -> float:
    try:
        return float(json.loads(text)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # half a line, from a process that was killed while writing


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
