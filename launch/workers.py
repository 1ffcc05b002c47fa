"""Starts the worker processes of a run through the deepspeed launcher, and passes signals on."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from types import FrameType

import psutil

from train.config import TrainConfig, to_yaml, with_absolute_paths
from train.run_folder import FINISHED, is_finished, refuse_occupied

STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of a run that was asked to stop and did, after a checkpoint."""


class WorkersError(RuntimeError):
    """The workers did not come to the end of the run.

    Attributes:
        exit_code: what the launcher ended with.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PortError(ValueError):
    """The port where the workers are to meet is taken."""


def start_training(
    config: TrainConfig,
    *,
    num_procs: int | None = None,
    hostfile: Path | None = None,
    master_port: int | None = None,
) -> None:
    """Train: write the config with absolute paths into the run folder and run its workers there.

    Args:
        config: the run; relative paths are taken from the current folder.
        num_procs: processes on this machine; None: every GPU, else 2.
        hostfile: hosts and slots of a cluster instead.
        master_port: where the workers meet; None: a free one.

    Raises:
        CheckpointError: another run stands in the folder.
        PortError: the port is taken.
        WorkersError: a worker failed, or the run was asked to stop.
    """
    config = with_absolute_paths(config, Path.cwd())
    refuse_occupied(config)
    run = Path(config.output_dir)
    run.mkdir(parents=True, exist_ok=True)
    (run / FINISHED).unlink(missing_ok=True)
    asked = run / "launch.yaml"
    asked.write_text(to_yaml(config), encoding="utf-8")
    code = run_workers(
        "train.run",
        ["--config", str(asked)],
        run,
        num_procs=num_procs,
        hostfile=hostfile,
        master_port=master_port,
    )
    if code in STOPPED:
        raise WorkersError(
            f"the run was asked to stop and has saved a checkpoint in {run}. Go on with "
            "resume_from_checkpoint=true",
            code,
        )
    # The launcher ends with 0 when its own child was killed: believe the run, not the code.
    if code or not is_finished(config):
        raise WorkersError(
            f"a worker ended early (the launcher's exit code is {code}). What it said is above and "
            f"in {run / 'logs'}; the run goes on from its newest checkpoint with "
            "resume_from_checkpoint=true",
            code or 1,
        )


def run_workers(
    module: str,
    args: Sequence[str],
    run_dir: Path,
    *,
    num_procs: int | None = None,
    hostfile: Path | None = None,
    master_port: int | None = None,
    launcher_args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    log_file: Path | None = None,
) -> int:
    """Run `python -m module args` as one process per GPU or slot; return the exit code.

    The working directory is the run folder: `python -m` puts it first on `sys.path`, and the
    multi-node launcher also writes it into every rank's PYTHONPATH, so a stray `train.py` of the
    folder that a user stands in must not be there.

    SIGTERM and SIGINT are passed to the workers alone and then waited for: the launcher itself
    would kill them after 30 seconds, which may be too few for a checkpoint. A second signal ends
    everything at once.

    Args:
        module: what each process runs.
        args: its arguments.
        run_dir: where it runs; made where it is not there.
        num_procs: processes on this machine; None: every GPU, else 2.
        hostfile: lines of `host slots=N`; then `num_procs` plays no part.
        master_port: where the workers meet; None: a free one on this machine.
        launcher_args: more for the deepspeed launcher, such as `--no_ssh --node_rank 0`.
        env: variables to set besides the present ones.
        log_file: takes what the processes print; None leaves it to our own streams.

    Raises:
        PortError: `master_port` is taken.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    processes = num_procs or default_processes()
    command = [sys.executable, "-P", "-m", "deepspeed.launcher.runner"]
    if hostfile is not None:
        command += ["--hostfile", str(hostfile.absolute())]
        if master_port is not None:
            command += ["--master_port", str(master_port)]
    else:
        port = free_port() if master_port is None else check_port(master_port)
        command += ["--num_gpus", str(processes), "--master_port", str(port)]
    command += [*launcher_args, "--module", module, *args]
    with log_file.open("ab") if log_file else nullcontext() as output:
        child = subprocess.Popen(
            command,
            cwd=run_dir,
            env=worker_environment(os.environ, processes) | dict(env or {}),
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C of the terminal comes to us, not to the launcher
        )
        with _signals_passed_on(child, module):
            return child.wait()


def worker_environment(environment: Mapping[str, str], processes: int) -> dict[str, str]:
    """The workers' variables: threads that do not fight for cores, and no search for GPUs.

    Without OMP_NUM_THREADS every process takes all cores; two of them are then five times slower
    on two cores.
    """
    changed = dict(environment)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    changed.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // processes)))
    if gpu_count() == 0:
        changed.setdefault("DS_ACCELERATOR", "cpu")
    return changed


def default_processes() -> int:
    """One process per GPU; without any, two."""
    return gpu_count() or 2


def gpu_count() -> int:
    """GPUs that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(port: int) -> int:
    """Return the port when it can be listened on.

    Raises:
        PortError: it is taken, or not ours to take.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "another process listens on it" if taken else str(error.strerror)
            raise PortError(
                f"the workers cannot meet at port {port}: {reason}. Give another --master-port, or "
                "none to take a free one"
            ) from error
    return port


@contextmanager
def _signals_passed_on(child: subprocess.Popen[bytes], module: str) -> Iterator[None]:
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        workers = _workers(child.pid, module)
        if asked or not workers:  # a second time, or too early for a worker to be there
            for process in [*workers, *_family(child.pid)]:
                _send(process, signal.SIGKILL if asked else number)
        for process in workers:
            _send(process, number)
        asked.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _family(pid: int) -> list[psutil.Process]:
    try:
        launcher = psutil.Process(pid)
        return [launcher, *launcher.children(recursive=True)]
    except psutil.Error:
        return []


def _workers(pid: int, module: str) -> list[psutil.Process]:
    """The processes that run the module, below a launcher that only names it."""
    found = []
    for process in _family(pid):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(pair == ("-m", module) for pair in pairwise(words)):
            found.append(process)
    return found


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # gone already
