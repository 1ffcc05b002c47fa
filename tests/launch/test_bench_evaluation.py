"""The benchmark of evaluation splits as other libraries do, and reads a run's result."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_run import make_run

from data_pipeline.corpus import Corpus
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks
from launch.bench import evaluation
from launch.bench.evaluation import (
    STUDENTS,
    bench_evaluation,
    leave_last_sequences,
    of_run,
    rank_students,
)
from launch.cli import main

SMALL = {"hidden_size": 8, "n_layers": 1, "epochs": 1, "max_length": 10, "device": "cpu"}
FEW = {"sasrec": [SMALL], "gru4rec": [{**SMALL, "architecture": "gru4rec"}]}


def test_sequences_are_split_leave_last_in_the_order_of_time_and_then_of_the_file(
    tiny_corpus: Corpus,
) -> None:
    data = leave_last_sequences(tiny_corpus)
    events = tiny_corpus.events.select(["user_id", "item_id", "timestamp"]).to_pylist()
    ids = sorted({event["item_id"] for event in events})
    users = sorted({event["user_id"] for event in events})
    assert len(data.test) == len(data.validation) == len(users)
    for row, user in enumerate(users):
        own = [event for event in events if event["user_id"] == user]
        own.sort(key=lambda event: event["timestamp"])  # stable: ties stay as they were
        items = [ids.index(event["item_id"]) for event in own]
        (history,) = data.histories(data.test, np.array([row]))
        assert history.tolist() == items[:-1]
        assert data.test.item_B[row] == items[-1]
        assert data.validation.item_B[row] == items[-2]
        first, stop = data.train_offsets_U1[row : row + 2]
        assert data.train_item_E[first:stop].tolist() == items[:-2]


def test_students_are_ranked_with_and_without_the_history(tiny_corpus: Corpus) -> None:
    data = leave_last_sequences(tiny_corpus)
    metrics = rank_students(data, FEW)
    assert len(metrics) == 8
    for name in STUDENTS:
        for metric in ("ndcg10", "hr10"):
            kept = metrics[f"evaluation.{name}_{metric}_ml100k"]
            left_out = metrics[f"evaluation.{name}_{metric}_ml100k_without_history"]
            # Forty of sixty items are history: without them the right one can only rise.
            assert 0.0 <= kept <= left_out <= 1.0
        assert metrics[f"evaluation.{name}_hr10_ml100k_without_history"] > 0.2


def test_a_runs_tasks_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=30)
    metrics = of_run(run)
    n = len(all_tasks())
    assert metrics["evaluation.tasks_total"] == n
    assert metrics["evaluation.tasks_beating_baseline"] == n - len(range(2, n, 3))
    assert "mixture.plan_minus_consumed" not in metrics  # this run did not say what it consumed


def test_the_command_prints_every_key(
    tiny_corpus: Corpus,
    tiny_store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluation, "TARGETS", 5)
    monkeypatch.setattr(rank_students, "__defaults__", (FEW,))
    monkeypatch.setattr("launch.bench.stores.movielens_store", lambda folder: tiny_store)
    monkeypatch.setattr(Corpus, "open", classmethod(lambda cls, folder: tiny_corpus))
    run = make_run(tmp_path / "run", steps=30)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "evaluation", "--run", str(run), "--json"])
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    assert result["benchmark"] == "evaluation"
    assert result["command"] == f"brewhouse bench evaluation --run {run} --json"
    assert {
        "evaluation.targets_per_s",
        "evaluation.sasrec_ndcg10_ml100k",
        "evaluation.gru4rec_ndcg10_ml100k",
        "evaluation.tasks_beating_baseline",
        "evaluation.tasks_total",
    } <= result["metrics"].keys()
    assert result["metrics"]["evaluation.targets_per_s"] > 0


def test_nothing_given_is_nothing_measured() -> None:
    assert bench_evaluation(None, None, None) == {}
