"""The object that every benchmark prints."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.provenance import provenance


def benchmark_result(
    benchmark: str, argv: Sequence[str], metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Metrics under flat dotted keys, with what is needed to compare them later."""
    return {
        "benchmark": benchmark,
        "commit": provenance()["commit"] or "unknown",
        "machine": machine(),
        "command": shlex.join(["brewhouse", *argv]),
        "metrics": dict(metrics),
    }


def machine() -> str:
    """Processor, cores, memory and system, in one line."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {cores} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
