"""Who this process is among the others, and the few collectives that training needs.

One frozen object is built in `train/run.py`; everything below it gets ranks and sizes as plain
arguments, or the object itself where it has to talk to the other ranks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")
_LAUNCHER_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedContext:
    """One process's place in the run. Every collective must be entered by all ranks alike."""

    rank: int = 0
    """Number of this process in the whole run, from 0."""
    world_size: int = 1
    """Processes in the whole run."""
    local_rank: int = 0
    """Number of this process on its host, from 0; also the number of its device."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes what all would write alike."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def all_reduce_sum(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sum an array over the ranks, in float64; every rank gets the sum.

        Args:
            values: array of the same shape on every rank; NaN and infinity pass through.
        """
        summed = torch.as_tensor(np.asarray(values, np.float64).copy(), device=self.device)
        if self.world_size > 1:
            dist.all_reduce(summed)
        return cast("NDArray[np.float64]", summed.cpu().numpy())

    def all_gather_object(self, value: T) -> list[T]:
        """Bring one small picklable object of every rank to every rank, in rank order."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return cast("list[T]", gathered)

    def broadcast_object(self, value: T) -> T:
        """Give every rank the object that rank 0 holds."""
        if self.world_size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def close(self) -> None:
        """Leave the other ranks. A process alone keeps its group: DeepSpeed holds on to it."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def init_distributed(timeout_seconds: float = 1800.0) -> DistributedContext:
    """Join the other processes of this run and say which of them this is.

    Works under the `deepspeed` launcher, `torchrun`, any launcher that sets the same five
    variables, and for a process that nobody launched (world size 1, no process group needed).
    Gloo on CPU, NCCL on GPU.

    Args:
        timeout_seconds: how long a collective may wait for a rank before the run fails.

    Raises:
        RuntimeError: the launcher's variables are there in part only.
    """
    # DeepSpeed calls collectives by names that torch has renamed: once per name and rank.
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger"
    )
    place = _place(os.environ)
    device = _device(place.local_rank)
    if place.world_size > 1:
        _init_process_group(device, timeout_seconds)
    return DistributedContext(
        rank=place.rank, world_size=place.world_size, local_rank=place.local_rank, device=device
    )


def ensure_process_group(context: DistributedContext, timeout_seconds: float = 1800.0) -> None:
    """Give DeepSpeed the process group that it needs even for one process; needs no port."""
    if not dist.is_initialized():
        assert context.world_size == 1, "init_distributed builds the group of a launched run"
        os.environ.setdefault("LOCAL_RANK", str(context.local_rank))  # DeepSpeed reads it back
        dist.init_process_group(
            "nccl" if context.device.type == "cuda" else "gloo",
            store=dist.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
            timeout=timedelta(seconds=timeout_seconds),
        )
    _init_deepspeed_comm(timeout_seconds)


@dataclass(frozen=True, slots=True)
class _Place:
    rank: int
    world_size: int
    local_rank: int


def _place(environment: Mapping[str, str]) -> _Place:
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return _Place(0, 1, 0)
    missing = [name for name in _LAUNCHER_NAMES if name not in environment]
    if missing:
        raise RuntimeError(
            f"{', '.join(missing)} not set, though RANK or WORLD_SIZE is: no launcher does that. "
            "Start with `brewhouse train`, `deepspeed --module train.run` or `torchrun -m "
            "train.run`, or unset both to run a single process"
        )
    return _Place(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def _device(local_rank: int) -> torch.device:
    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # spares DeepSpeed's warning
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if local_rank >= visible:
        raise RuntimeError(
            f"this process is number {local_rank} on its host, but {visible} GPUs are visible to "
            "it. Start as many processes as GPUs, and let every process see all of its host's GPUs"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _init_process_group(device: torch.device, timeout_seconds: float) -> None:
    if dist.is_initialized():
        return
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        device_id=device if cuda else None,
    )


def _init_deepspeed_comm(timeout_seconds: float) -> None:
    """Let DeepSpeed adopt the process group that exists already."""
    import deepspeed

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # DeepSpeed would compile a shared-memory collective here: a minute of g++ on each new
        # machine, no gain measured, and a build that was killed leaves a lock on which every later
        # run waits for ever. The name is private, so its absence must not hurt.
        known = vars(deepspeed.ops).get("__compatible_ops__")
        if isinstance(known, dict):
            known["deepspeed_shm_comm"] = False
        else:
            vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed(timeout=timedelta(seconds=timeout_seconds), verbose=False)
