"""Cores of this host for each of its ranks, so that their threads do not meet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def bind_cores_to_rank(environment: Mapping[str, str] = os.environ) -> list[int]:
    """Keep this process and its threads on its own share of the host's cores.

    Before anything computes: threads that run already keep their cores. Needs no numactl.

    Args:
        environment: what the launcher set.

    Returns:
        The cores; empty where the system cannot bind a process (macOS).
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    rank = int(environment.get("LOCAL_RANK", "0"))
    # torchrun's name, DeepSpeed's name.
    ranks = int(environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or "1")
    cores = share_of_cores(one_per_core(os.sched_getaffinity(0)), rank, ranks)
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    return cores


def share_of_cores(cores: list[int], rank: int, ranks: int) -> list[int]:
    """Neighbouring cores of one rank; ranks share them in turn where there are fewer cores."""
    if len(cores) < ranks:
        return [cores[rank % len(cores)]]
    return cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks]


def one_per_core(cpus: Iterable[int]) -> list[int]:
    """The first hardware thread of each core: two of one core share its arithmetic units."""
    seen: dict[str, int] = {}
    for cpu in sorted(cpus):
        path = Path(_SIBLINGS.format(cpu))
        siblings = path.read_text().strip() if path.is_file() else str(cpu)
        seen.setdefault(siblings, cpu)
    return list(seen.values())
