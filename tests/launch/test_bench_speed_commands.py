"""`bench train`, `score` and `quality` hand their options on, and name themselves in the result."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.store import TokenStore
from launch.bench import quality, score, train
from launch.cli import main


def result_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["command"] == "brewhouse " + " ".join(words)
    return found


def test_train_hands_its_options_on(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def bench(store: TokenStore, **options: Any) -> dict[str, float]:
        given.update(options, store=store.folder)
        return {"train.tree_over_l0": 9.0}

    monkeypatch.setattr(train, "bench_train", bench)
    store = str(tiny_store.folder)
    words = ["bench", "train", "--store", store, "--size", "5m", "--rounds", "2"]
    found = result_of([*words, "--trl-python", "/env/python", "--json"], capsys)
    assert found["benchmark"] == "train"
    assert found["metrics"] == {"train.tree_over_l0": 9.0}
    assert given.pop("note") is not None
    assert given == {
        "store": tiny_store.folder,
        "size": "5m",
        "rounds": 2,
        "trl_python": Path("/env/python"),
    }


def test_score_hands_its_options_on(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def bench(store: TokenStore, **options: Any) -> dict[str, float]:
        given.update(options)
        return {"score.warm_over_cold": 3.0}

    monkeypatch.setattr(score, "bench_score", bench)
    store = str(tiny_store.folder)
    words = ["bench", "score", "--store", store, "--size", "135m", "--candidates", "32,1"]
    found = result_of([*words, "--rounds", "3", "--json"], capsys)
    assert found["metrics"] == {"score.warm_over_cold": 3.0}
    assert given["counts"] == [1, 32]
    assert given["llamacpp_python"] is None


def test_quality_hands_its_options_on(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "bench_quality", lambda store, *, steps: {"steps": float(steps)})
    words = ["bench", "quality", "--store", str(tiny_store.folder), "--steps", "7", "--json"]
    assert result_of(words, capsys)["metrics"] == {"steps": 7.0}


def test_candidates_that_are_no_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "score", "--candidates", "1,many"])
    assert ended.value.code == 2
    assert "'1,many'" in capsys.readouterr().err
