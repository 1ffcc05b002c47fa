"""Run one command, let it print where we print, and measure it: seconds and memory of its tree."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.25
GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """How a command ended and what it took."""

    exit_code: int
    seconds: float
    """Wall clock."""
    peak_mb: float
    """Largest sum of resident set sizes (MiB) seen over the process and its descendants.

    Pages that processes share are counted once for each, so this is an upper bound.
    """


class _PeakSampler(threading.Thread):
    """Samples the memory of a process tree until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._stop_event = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._stop_event.wait(SAMPLE_SECONDS):
            self.sample()

    def sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, tree_memory(self._pid))

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


def tree_memory(pid: int) -> int:
    """Bytes resident in a process and all its descendants now; 0 when it is gone."""
    total = 0
    for process in _tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # ended between listing and reading
    return total


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def run_measured(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Measured:
    """Run a command to its end; its output goes straight to our own streams.

    On an interrupt the command gets time to end by itself (it shares our terminal and has seen the
    same Ctrl-C), then its whole tree is ended, and the interrupt goes on.
    """
    start = time.monotonic()
    process = subprocess.Popen(list(command), cwd=cwd, env=None if env is None else dict(env))
    sampler = _PeakSampler(process.pid)
    sampler.sample()
    sampler.start()
    try:
        exit_code = process.wait()
    except BaseException:
        _end_tree(process)
        raise
    finally:
        sampler.stop()
    return Measured(
        exit_code=exit_code,
        seconds=time.monotonic() - start,
        peak_mb=sampler.peak_bytes / 2**20,
    )


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        members = _tree(process.pid)
        for member in members:
            _quietly(member.terminate)
        _, alive = psutil.wait_procs(members, timeout=5)
        for member in alive:
            _quietly(member.kill)
        process.wait()


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(psutil.Error):  # gone already, which is what was wanted
        action()
