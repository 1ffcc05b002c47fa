"""The training benchmark counts what it says, and its parts fit together."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree
from launch.bench import memory, peer, train, workload
from launch.bench.train import bench_train
from launch.bench.workload import Workload, made_tree
from modeling.shape import ModelShape

VOCABULARY = 200
TINY = ModelShape(
    architecture="llama",
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)

# Stands in for TRL: half the tokens of every step are of no use, and the update takes a second.
SLOW_TRAINER = """
import json, sys
settings = json.load(open(sys.argv[1]))
prompts = settings["prompts"]
assert all(sum(p["completion_mask"]) == 1 and p["completion_mask"][-1] for p in prompts)
print(json.dumps({"prompts": len(prompts), "row": settings["max_length"]}), flush=True)
for line in sys.stdin:
    answer = {"forward_backward_seconds": 200.0, "tokens": 100, "optimizer_seconds": 1.0}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> tuple[Tree, ...]:
    made = tuple(made_tree(30, 8, 5, VOCABULARY, seed=seed) for seed in range(3))
    monkeypatch.setattr(train, "benchmark_trees", lambda _, n: Workload(made[:n], 1, VOCABULARY))
    monkeypatch.setitem(workload.SHAPES, "5m", TINY)
    monkeypatch.setattr(train, "_memory", lambda *_: {})
    return made


@pytest.fixture
def second_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which a token costs a second, and an update or a matrix product one."""

    def seconds(self: Any, batch: Any) -> float:
        return float(batch.n_tokens)

    monkeypatch.setattr(train._Trainer, "seconds", seconds)
    monkeypatch.setattr(train._Trainer, "step_seconds", lambda self: 1.0)
    monkeypatch.setattr(train, "gemm_case", lambda: lambda: 1.0)


@pytest.mark.usefixtures("second_per_token")
def test_every_number_can_be_computed_by_hand(
    tiny_store: TokenStore, trees: tuple[Tree, ...]
) -> None:
    metrics = bench_train(tiny_store, size="5m", rounds=2)
    packed, singles = 30 + 8 * 5, 8 * (30 + 5)
    assert metrics["train.tree_tokens"] == packed
    assert metrics["train.token_ratio"] == singles / packed
    assert metrics["train.tree_targets_per_s"] == 8 / (packed + 1)
    assert metrics["train.l0_targets_per_s"] == 8 / (singles + 1)  # the sample stands for all
    assert metrics["train.tree_over_l0"] == pytest.approx((singles + 1) / (packed + 1))
    assert metrics["train.share_of_token_ratio"] == pytest.approx(
        metrics["train.tree_over_l0"] / metrics["train.token_ratio"]
    )
    flops = metrics["train.model_flops_per_s"] * packed
    assert metrics["train.flops_utilisation"] == pytest.approx(flops / packed / (2 * 2048**3))
    assert not any("trl" in key for key in metrics)


@pytest.mark.usefixtures("second_per_token")
def test_trl_gets_the_same_prompts_and_its_rate_is_per_token(
    tiny_store: TokenStore,
    trees: tuple[Tree, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer, "SCRIPTS", tmp_path)
    (tmp_path / "trl_packing.py").write_text(SLOW_TRAINER)
    notes: list[str] = []
    metrics = bench_train(
        tiny_store, size="5m", rounds=1, trl_python=Path(sys.executable), note=notes.append
    )
    assert "TRL says: {'prompts': 16, 'row': 70}" in notes  # two trees of eight targets
    singles = 8 * (30 + 5)
    assert metrics["train.trl_targets_per_s"] == pytest.approx(8 / (2 * singles + 1))
    assert metrics["train.tree_over_trl"] == pytest.approx((2 * singles + 1) / (70 + 1))


def test_a_real_step_is_timed(tiny_store: TokenStore, trees: tuple[Tree, ...]) -> None:
    work = Workload(trees, 1, VOCABULARY)
    trainer = train._Trainer(workload.random_model("5m", VOCABULARY).train(), work)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert trainer.seconds(trainer.batch(trees[0], "L2")) > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.parameters())
    assert trainer.step_seconds() > 0
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert all(moved)


def test_memory_of_a_step_lies_above_what_was_there(
    tiny_store: TokenStore, trees: tuple[Tree, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[tuple[int, int]] = []

    def counted(chosen: Any, n_tasks: int, **layout: Any) -> Any:
        batch = pack(chosen, n_tasks, **layout)
        packed.append((batch.n_targets, batch.n_tokens))
        return batch

    monkeypatch.setattr("data_pipeline.packing.pack", counted)
    monkeypatch.setattr(workload, "benchmark_trees", lambda *_: Workload(trees, 1, VOCABULARY))
    found = memory.main(str(tiny_store.folder), "5m", 4, "L0")
    assert found.peak >= found.before > 0
    # One token of trunk and one branch to make the optimiser's state; then four whole prompts.
    assert packed == [(1, 1 + 5), (4, 4 * (30 + 5))]


def test_a_step_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="4 targets in layout L0 ended with code 1"):
        memory.peak_memory(tmp_path, "5m", 4, "L0")
