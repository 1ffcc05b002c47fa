"""Seconds of several things, taken in turns, and the speed of one large matrix product.

A machine that others use, or that gets warm, changes its speed within minutes. Things that are to
be compared are therefore run one after the other in every round, and ratios are taken within a
round before their median is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Case = Callable[[], float]
"""Runs something and returns its seconds."""

GEMM_SIZE = 2048


def stopwatch(action: Callable[[], object]) -> Case:
    """The seconds of an action until its device is done, by the clock on the wall."""

    def run() -> float:
        _wait_for_device()
        start = time.perf_counter()
        action()
        _wait_for_device()
        return time.perf_counter() - start

    return run


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(
    cases: Mapping[str, Case], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run every case once to warm up, then all of them in every round; seconds per round."""
    for case in cases.values() if warm_up else ():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            seconds[name].append(case())
    return seconds


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def gemm_case(size: int = GEMM_SIZE) -> Case:
    """Seconds of the product of two square fp32 matrices: as fast as this machine's kernels get."""
    left, right = (torch.randn(size, size) for _ in range(2))
    result = torch.empty(size, size)
    return stopwatch(lambda: torch.mm(left, right, out=result))


def gemm_flops(size: int = GEMM_SIZE) -> float:
    """Operations of that product, two per multiply-add."""
    return 2.0 * size**3
