"""The launcher's front: ports, variables, working directory, exit codes, who is told to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from launch import workers
from launch.workers import (
    PortError,
    WorkersError,
    check_port,
    default_processes,
    free_port,
    run_workers,
    start_training,
    worker_environment,
)
from train.config import TrainConfig, config_fingerprint
from train.errors import CheckpointError

PROBE = """
import json, os, sys, time
from pathlib import Path
names = ("RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS", "DS_ACCELERATOR")
seen = {name: os.environ.get(name) for name in names}
seen |= {"cwd": os.getcwd(), "args": sys.argv[1:]}
Path(f"rank-{seen['RANK']}.json").write_text(json.dumps(seen))
sys.exit(int(sys.argv[-1]) if seen["RANK"] == "1" else 0)
"""


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield listener.getsockname()[1]


def config_in(folder: Path, **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "model_name_or_path": "nobody/nothing",
        "stores": ("store",),
        "output_dir": str(folder / "run"),
        "max_steps": 3,
        "learning_rate": 1e-3,
    }
    return TrainConfig(**(values | changes))  # type: ignore[arg-type]


def test_a_port_in_use_is_an_error_before_anything_starts(tmp_path: Path, taken: int) -> None:
    with pytest.raises(PortError, match=f"port {taken}: another process listens on it"):
        run_workers("probe", [], tmp_path, num_procs=1, master_port=taken)


def test_free_ports_are_free() -> None:
    port = free_port()
    assert check_port(port) == port


def test_threads_are_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    assert worker_environment({}, 2) == {"OMP_NUM_THREADS": "4", "DS_ACCELERATOR": "cpu"}
    assert worker_environment({}, 16)["OMP_NUM_THREADS"] == "1"
    assert worker_environment({"OMP_NUM_THREADS": "3"}, 2)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(workers, "gpu_count", lambda: 2)
    assert "DS_ACCELERATOR" not in worker_environment({}, 2)


def test_one_process_per_gpu_else_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "gpu_count", lambda: 8)
    assert default_processes() == 8
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    assert default_processes() == 2


def test_workers_run_in_the_run_folder_and_their_exit_code_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere):
        folder.mkdir()
    (run / "probe.py").write_text(PROBE)
    (elsewhere / "probe.py").write_text("raise SystemExit('a stray file was run')")
    (elsewhere / "deepspeed.py").write_text("raise SystemExit('a stray file was run')")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = run_workers("probe", ["key=value", "7"], run, num_procs=2)
    assert code == 7
    seen = [json.loads((run / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    for rank, told in enumerate(seen):
        assert told["RANK"] == str(rank)
        assert told["WORLD_SIZE"] == "2"
        assert told["cwd"] == str(run)
        assert told["args"] == [f"--local_rank={rank}", "key=value", "7"]
        assert int(told["OMP_NUM_THREADS"]) >= 1
    assert seen[0]["MASTER_PORT"] == seen[1]["MASTER_PORT"]


def captured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would be started; none is."""
    commands: list[list[str]] = []

    class NoProcess:
        pid = os.getpid()

        def __init__(self, command: list[str], **kwargs: object) -> None:
            commands.append(command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", NoProcess)
    return commands


def test_a_hostfile_goes_to_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = captured(monkeypatch)
    hostfile = tmp_path / "hosts"
    extra = ["--no_ssh", "--node_rank", "0", "--master_addr", "10.0.0.1"]
    run_workers("train.run", ["--config", "c"], tmp_path, hostfile=hostfile, launcher_args=extra)
    (command,) = commands
    assert command[:4] == [sys.executable, "-P", "-m", "deepspeed.launcher.runner"]
    assert command[4:] == [
        *("--hostfile", str(hostfile)),
        *extra,
        *("--module", "train.run", "--config", "c"),
    ]


def test_training_that_did_not_finish_is_an_error_whatever_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path)
    for code, message in (
        (0, r"a worker ended early \(the launcher's exit code is 0\)"),
        (247, "a worker ended early"),
        (128 + signal.SIGTERM, "was asked to stop and has saved a checkpoint"),
    ):
        monkeypatch.setattr(workers, "run_workers", lambda *args, code=code, **kwargs: code)
        with pytest.raises(WorkersError, match=message) as caught:
            start_training(config)
        assert caught.value.exit_code == (code or 1)


def test_workers_get_absolute_paths_and_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_in(tmp_path, output_dir="out/run", stores=("data/store",))

    def finish(module: str, args: list[str], run: Path, **kwargs: object) -> int:
        asked = yaml.safe_load(Path(args[1]).read_text())
        assert asked["output_dir"] == str(tmp_path / "out/run") == str(run)
        assert asked["stores"] == [str(tmp_path / "data/store")]
        absolute = replace(config, output_dir=asked["output_dir"], stores=tuple(asked["stores"]))
        marker = {"config_fingerprint": config_fingerprint(absolute)}
        (run / "finished").write_text(json.dumps(marker))
        return 0

    monkeypatch.setattr(workers, "run_workers", finish)
    start_training(config)


def test_a_run_in_the_way_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run = Path(config.output_dir)
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="holds a run already"):
        start_training(config)
    assert {path.name for path in run.iterdir()} == {"metrics.jsonl"}


def test_only_the_workers_are_told_to_stop_not_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that names the module is a launcher; one that runs it by -m is a worker."""

    class Listed:
        def __init__(self, *words: str) -> None:
            self.words = words

        def cmdline(self) -> list[str]:
            return list(self.words)

        def children(self, recursive: bool) -> list["Listed"]:
            return [launch, worker]

    runner = Listed("python", "-m", "deepspeed.launcher.runner", "--module", "train.run")
    launch = Listed("python", "-u", "-m", "deepspeed.launcher.launch", "--module", "train.run")
    worker = Listed("python", "-u", "-m", "train.run", "--local_rank=0")
    monkeypatch.setattr(psutil, "Process", lambda pid: runner)
    assert workers._workers(1, "train.run") == [worker]
