"""The benchmark of assembly counts the same tokens on both sides, on one thread."""

import json
import os

import pytest

from data_pipeline.store import TokenStore
from launch.bench.data import PARALLELISM, _one_thread, bench_data
from launch.bench.result import benchmark_result, machine
from launch.cli import main

KEYS = {
    "data.trees_per_s",
    "data.tokens_per_s",
    "data.tokenizer_tokens_per_s",
    "data.assembly_over_tokenizer",
    "data.assembly_over_tokenizer_per_prompt",
    "data.tokens_per_tree",
    "data.targets_per_tree",
}


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
    assert 1.0 <= metrics["data.targets_per_tree"] <= 16.0


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
    tiny_store: TokenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tiny_store.folder)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "data", "--store", store, "--rounds", "1", "--json"])
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"benchmark", "commit", "machine", "command", "metrics"}
    assert result["benchmark"] == "data"
    assert result["command"] == f"brewhouse bench data --store {store} --rounds 1 --json"
    assert result["metrics"].keys() == KEYS
    assert all(value > 0 for value in result["metrics"].values())


def test_a_result_names_machine_and_commit() -> None:
    result = benchmark_result("x", ["bench", "x", "a b"], {"x.y": 1})
    assert result["command"] == "brewhouse bench x 'a b'"
    assert "cores" in machine()
    assert result["machine"] == machine()
    assert result["commit"]
