"""Peak memory of one training step, in a process of its own.

    python -m launch.bench.memory STORE SIZE TARGETS LAYOUT

prints one JSON object: resident memory before the step and its peak during it. Weights and the
optimiser's state are there before the step; what it adds are its activations and its gradients.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.packing import Layout


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Resident memory of a process, MiB."""

    before: float
    """With weights and optimiser state, before the step."""
    peak: float
    """The most during the step."""

    @property
    def step(self) -> float:
        """What the step added."""
        return self.peak - self.before


def peak_memory(store: Path, size: str, n_targets: int, layout: Layout) -> PeakMemory:
    """Measure a step of one tree's first `n_targets` targets in a fresh process.

    Raises:
        RuntimeError: it failed, most likely for want of memory.
    """
    arguments = [str(store), size, str(n_targets), layout]
    done = subprocess.run(
        [sys.executable, "-m", "launch.bench.memory", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"a step of {n_targets} targets in layout {layout} ended with code {done.returncode} "
            f"(-9: the system ran out of memory): {done.stderr[-2000:]}"
        )
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def main(store: str, size: Any, n_targets: int, layout: Layout) -> PeakMemory:
    """Make one step and look at what this process held."""
    import psutil
    import torch

    from data_pipeline.packing import pack
    from data_pipeline.store import TokenStore
    from launch.bench.workload import benchmark_trees, random_model
    from train.objectives import LabelObjective
    from train.throughput import peak_memory_mb

    work = benchmark_trees(TokenStore.open(store), 1)
    model = random_model(size, work.vocab_size).train()
    objective = LabelObjective(work.n_tasks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tree = replace(work.trees[0], branches=work.trees[0].branches[:n_targets])
    small = replace(tree, trunk=tree.trunk[:1], branches=tree.branches[:1])

    def step(batch: Any) -> None:
        objective(model, batch).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    step(pack([small], work.n_tasks))  # makes the optimiser's state
    before = psutil.Process().memory_info().rss / 2**20
    step(pack([tree], work.n_tasks, layout=layout))
    return PeakMemory(before, peak_memory_mb(torch.device("cpu")))


if __name__ == "__main__":
    print(json.dumps(asdict(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))))  # type: ignore[arg-type]
