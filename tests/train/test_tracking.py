import json
import logging
from pathlib import Path
from typing import Any

import pytest

from train.progress import ProgressLines, duration
from train.tracking import JsonlSink, ProgressSink, Tracker, WandbSink, wandb_keys

LINE = {
    "step": 3,
    "loss": 1.5,
    "learning_rate": 0.1,
    "grad_norm": 2.0,
    "targets": 64,
    "targets_per_s": 32.0,
    "seconds": 2.0,
    "tasks": {"like": {"loss": 0.5, "targets": 64}},
}
EVALUATION = {
    "step": 3,
    "evaluation": {"loss": 1.0, "tasks": {"like": {"loss": 1.0, "accuracy": 0.75}}},
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def write_steps(path: Path, *steps: int) -> None:
    sink = JsonlSink(path)
    for step in steps:
        sink.log({"step": step, "loss": 1.0 / step})
    sink.close(0)


def test_lines_are_there_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.log(LINE)
    assert lines(tmp_path / "metrics.jsonl") == [LINE]
    sink.close(0)


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.log({"step": 1, "loss": float("nan"), "tasks": {"like": {"loss": float("inf")}}})
    sink.close(0)
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": None, "tasks": {"like": {"loss": None}}}
    ]


def test_a_resumed_run_drops_what_lies_beyond_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2, 3, 4, 5)
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    sink = JsonlSink(path, step=3)
    sink.log({"step": 4, "loss": 9.0})
    sink.close(0)
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4]
    assert lines(path)[-1]["loss"] == 9.0


def test_a_fresh_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2)
    JsonlSink(path, step=0).close(0)
    assert lines(path) == []


def test_wandb_names() -> None:
    assert wandb_keys(LINE) == {
        "step": 3,
        "train/loss": 1.5,
        "train/learning_rate": 0.1,
        "train/grad_norm": 2.0,
        "train/targets": 64,
        "train/task/like/loss": 0.5,
        "train/task/like/targets": 64,
        "perf/targets_per_s": 32.0,
        "perf/seconds": 2.0,
    }
    assert wandb_keys(EVALUATION) == {
        "step": 3,
        "eval/loss": 1.0,
        "eval/task/like/loss": 1.0,
        "eval/task/like/accuracy": 0.75,
    }


def test_wandb_runs_offline_without_a_key_and_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    first = WandbSink(tmp_path, name="a run", config={"seed": 1}, run_id=None)
    first.log(LINE)
    first.log(EVALUATION)
    first.show_examples(3, [{"task": "like", "prompt": "...", "answer": "Yes"}])
    first.close(0)
    second = WandbSink(tmp_path, name="a run", config={"seed": 1}, run_id=first.run_id)
    second.close(0)
    assert second.run_id == first.run_id
    folders = list((tmp_path / "wandb").glob(f"offline-run-*-{first.run_id}"))
    assert folders
    written = b"".join(file.read_bytes() for folder in folders for file in folder.glob("*.wandb"))
    for key in (b"train/loss", b"train/task/like/loss", b"eval/task/like/accuracy"):
        assert key in written


def test_a_tracker_without_sinks_does_nothing(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.log(LINE)
    tracker.show_examples(1, [])
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_progress_lines_tell_the_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    view = ProgressLines(50, "train", done=10, every_seconds=15, clock=lambda: now[0])
    sink = ProgressSink(view, step=10)
    with caplog.at_level(logging.INFO):
        now[0] = 110.0
        sink.log(LINE | {"step": 15})
        assert not caplog.messages
        now[0] = 120.0
        sink.log(LINE | {"step": 20})
    # 10 steps of this sitting took 20 s; 30 remain.
    assert caplog.messages == ["train 20/50, 0:20 elapsed, eta 1:00, loss 1.5000, 32 targets/s"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3661, "1:01:01"), (-5, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
