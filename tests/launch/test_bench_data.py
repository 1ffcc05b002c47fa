"""The benchmark of assembly counts the same tokens on both sides, on one thread."""

import json
import os

import pytest

import launch.bench.data
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
from launch.bench.data import PARALLELISM, Copier, Decided, _one_thread, bench_data, wait_shares
from launch.bench.result import benchmark_result, machine
from launch.cli import main

KEYS = {
    "data.trees_per_s",
    "data.tokens_per_s",
    "data.tokenizer_tokens_per_s",
    "data.assembly_over_tokenizer",
    "data.assembly_over_tokenizer_per_prompt",
    "data.copy_over_tokenizer",
    "data.tokens_per_tree",
    "data.targets_per_tree",
}
WAITS = {"data.wait_share", "data.wait_share_one_worker"}


def test_the_metrics_belong_together(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that ticks once per reading, every number can be computed by hand."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("launch.bench.data.time.process_time", lambda: float(next(ticks)))
    metrics = bench_data(tiny_store, trees=8, rounds=3)
    assert metrics.keys() == KEYS
    assert metrics["data.trees_per_s"] == 8.0
    assert metrics["data.tokens_per_s"] == 8 * metrics["data.tokens_per_tree"]
    # The tokenizer finds the very tokens that were assembled, but for a start token of its own.
    ratio = metrics["data.tokenizer_tokens_per_s"] / metrics["data.tokens_per_s"]
    assert ratio == pytest.approx(1.0, abs=0.02)
    assert metrics["data.assembly_over_tokenizer"] == pytest.approx(1.0, abs=0.02)
    assert metrics["data.assembly_over_tokenizer_per_prompt"] == 1.0
    assert metrics["data.copy_over_tokenizer"] == metrics["data.assembly_over_tokenizer"]
    assert 1.0 <= metrics["data.targets_per_tree"] <= 16.0


def test_copying_gives_the_same_trees(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], MixtureConfig(), seed=0)
    copier = Copier(mixture)
    for index in range(12):
        tree = mixture[index]
        again = copier.copy(Decided.of(tree))
        assert again.trunk.tolist() == tree.trunk.tolist()
        for one, other in zip(again.branches, tree.branches, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert one.answer.tolist() == other.answer.tolist()


def test_training_that_waits_is_told(tiny_store: TokenStore) -> None:
    shares = wait_shares(tiny_store, steps=4)
    assert shares.keys() == WAITS
    assert all(0 <= share < 1 for share in shares.values())


def test_the_tokenizer_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "true"):
        if before is None:
            monkeypatch.delenv(PARALLELISM, raising=False)
        else:
            monkeypatch.setenv(PARALLELISM, before)
        with _one_thread():
            assert os.environ[PARALLELISM] == "false"
        assert os.environ.get(PARALLELISM) == before


def test_the_command_prints_one_object(
    tiny_store: TokenStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.bench.data, "wait_shares", lambda store: dict.fromkeys(WAITS, 0.5))
    store = str(tiny_store.folder)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "data", "--store", store, "--rounds", "1", "--json"])
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"benchmark", "commit", "machine", "command", "metrics"}
    assert result["benchmark"] == "data"
    assert result["command"] == f"brewhouse bench data --store {store} --rounds 1 --json"
    assert result["metrics"].keys() == KEYS | WAITS
    assert all(value > 0 for value in result["metrics"].values())


def test_a_result_names_machine_and_commit() -> None:
    result = benchmark_result("x", ["bench", "x", "a b"], {"x.y": 1})
    assert result["command"] == "brewhouse bench x 'a b'"
    assert "cores" in machine()
    assert result["machine"] == machine()
    assert result["commit"]
