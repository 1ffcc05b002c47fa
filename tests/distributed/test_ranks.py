"""Two real processes under DeepSpeed, every ZeRO stage, in one launch; one process beside it."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rank_processes import run_ranks

from data_pipeline.store import TokenStore

WORKER = str(Path(__file__).with_name("many_checks_worker.py"))
STAGES = (0, 1, 2, 3)


def launch(store: TokenStore, folder: Path, world_size: int, *checks: str) -> dict[str, Any]:
    command = [WORKER, str(store.folder), str(folder), *checks]
    run_ranks(command, world_size, folder / "ranks.log")
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def two(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launch(tiny_store, tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def one(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launch(tiny_store, tmp_path_factory.mktemp("one"), 1, "gradients", "losses")


def test_collectives(two: dict[str, Any]) -> None:
    assert two["context"] == {
        "sum": [2.0, 1.0],
        "gathered": [{"rank": 0}, {"rank": 1}],
        "broadcast": "from 0",
        "nan": True,
        "tally": True,
    }


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_those_of_one_process_with_one_micro_batch(
    one: dict[str, Any], two: dict[str, Any], stage: int
) -> None:
    for results in (one, two):
        for accumulation in (1, 4):
            key = f"stage {stage}, accumulation {accumulation}"
            assert results["gradients"][key] <= 1e-6
            assert results["gradients"][f"norm, {key}"] <= 1e-5


def test_losses_agree_over_stages_and_processes(one: dict[str, Any], two: dict[str, Any]) -> None:
    reference = one["losses"]["stage 0"]
    assert reference[3] < reference[0]
    for results in (one, two):
        for stage in STAGES:
            assert results["losses"][f"stage {stage}"] == pytest.approx(reference, rel=1e-6)


def test_balance_moves_trees_between_ranks_and_not_the_gradient(two: dict[str, Any]) -> None:
    found = two["balance"]
    assert found["trees, False"] == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    assert found["trees, True"] != found["trees, False"]
    dealt = [tree for parts in found["trees, True"] for part in parts for tree in part]
    assert sorted(dealt) == list(range(8))
    assert found["worst"] <= 1e-6
    (even, also), (plain, _) = found["imbalance, True"], found["imbalance, False"]
    assert even == also < plain


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", ["not finite", "spike"])
def test_a_bad_step_of_one_rank_moves_no_weights_and_the_next_step_counts(
    two: dict[str, Any], stage: int, what: str
) -> None:
    verdict, applied, still, next_applied, next_finite = two["skipping"][f"stage {stage}, {what}"]
    assert verdict == what
    assert not applied
    assert still
    assert next_applied
    assert next_finite


def test_weights_are_gathered_whole(two: dict[str, Any]) -> None:
    assert two["full_state"] == {f"stage {stage}": True for stage in STAGES}


def test_zero3_loads_in_parts_and_saves_whole_adapters(two: dict[str, Any]) -> None:
    found = two["zero3_pretrained_and_lora"]
    assert found.pop("tensors") == 28  # 2 layers x 7 linear layers x A and B
    assert found == {"partitioned": True, "applied": True, "equal": True, "moved": True}


def test_validation_is_the_same_on_ranks_with_nothing_left(two: dict[str, Any]) -> None:
    for key, difference in two["validation"].items():
        assert difference <= 1e-6, key


def test_a_write_that_fails_on_one_rank_fails_on_all_and_keeps_the_old(
    two: dict[str, Any],
) -> None:
    found = two["failed_write"]
    for message in found["messages"]:
        assert "checkpoint-2 could not be written (rank 1: no space left on the disk" in message
    assert found["found"] == "checkpoint-1"
    assert found["folders"] == ["checkpoint-1", "latest"]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(two: dict[str, Any]) -> None:
    assert two["stop"]["ranks"] == [[signal.SIGTERM, 2, [2]]] * 2
