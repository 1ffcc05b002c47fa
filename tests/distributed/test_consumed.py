"""A run of two processes over two corpora consumes exactly what was planned, and says so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from own_plugins import ODD_ROW, registries_restored
from rank_processes import config_yaml, run_ranks
from tiny_corpus import make_corpus

from data_pipeline.build import compile_store
from data_pipeline.mixture import Mixture
from data_pipeline.plan import HISTORY, make_plan
from data_pipeline.store import TokenStore, open_stores
from train.config import load_config
from train.consumed import plan_minus_consumed
from train.errors import CheckpointError
from train.plugins import load_plugins

MIXTURE = (
    "{targets_per_tree: 6, history_events: 8, history_loss_weight: 0.3, "
    "user_fraction: 0.7, caps: {per_user: 12, per_corpus: 60}, "
    "curriculum: [{until_tree: 20, history_events: 2, max_trunk_tokens: 128}]}"
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with registries_restored():
        yield


@pytest.fixture(scope="module")
def run(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("consumed")
    corpus = make_corpus(base / "corpus", users=30, seed=9)
    other = compile_store(corpus, tiny_store.tokenizer_folder, base / "store")
    changes = {
        "stores": f"[{tiny_store.folder}, {other.folder}]",
        "mixture": MIXTURE,
        "min_users_per_step": 4,
        "dataloader_num_workers": 1,
        "plugins": f"[{base / 'odd_row.py'}]",
    }
    (base / "odd_row.py").write_text(ODD_ROW)
    config = base / "run.yaml"
    config.write_text(config_yaml(tiny_store.folder, base / "run", changes))
    run_ranks(["-m", "train.run", "--config", str(config)], 2, base / "run.log")
    return base / "run"


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_plan_minus_consumed_is_nothing(run: Path) -> None:
    advanced: list[int] = []
    assert plan_minus_consumed(run, advance=advanced.append) == 0
    assert sum(advanced) == 6 * 8
    summary = json.loads((run / "summary.json").read_text())
    assert 1 <= summary["imbalance"] < summary["imbalance_strided"]
    assert 0 <= summary["data_wait_share"] < 1
    assert list(summary["consumed"]) == ["tiny", "tiny (2)"]
    rows = [row for tasks in summary["consumed"].values() for row in tasks.values()]
    for what in ("targets", "tokens"):
        assert sum(row[what] for row in rows) == summary[what] > 0


def test_the_difference_can_be_seen(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    summary = json.loads((run / "summary.json").read_text())
    summary["consumed"]["tiny"]["like"]["targets"] += 3
    summary["consumed"]["tiny"]["rating"]["tokens"] -= 2  # differences do not cancel
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert plan_minus_consumed(tmp_path) == 5
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not say what the run consumed"):
        plan_minus_consumed(tmp_path)


def test_the_losses_of_corpora_and_tasks_add_up_to_the_whole(run: Path) -> None:
    for line in metrics(run):
        by_corpus = [row for tasks in line["corpora"].values() for row in tasks.values()]
        for rows in (list(line["tasks"].values()), by_corpus):
            weight = sum(row["weight"] for row in rows)
            assert sum(row["loss"] * row["weight"] for row in rows) / weight == pytest.approx(
                line["loss"], rel=1e-9
            )
            assert sum(row["targets"] for row in rows) == line["targets"]
        assert set(line["corpora"]) == {"tiny", "tiny (2)"}
        assert line["corpora"]["tiny"][HISTORY]["targets"] > 0


def test_a_task_of_a_plugin_is_trained_in_every_process_and_recorded(run: Path) -> None:
    consumed = json.loads((run / "summary.json").read_text())["consumed"]
    assert all(tasks["odd_row"]["targets"] > 0 for tasks in consumed.values())
    recorded = (run / "config.yaml").read_text().partition("provenance:")[2]
    assert f"plugin: {run.parent / 'odd_row.py'}" in recorded
    assert "sha256:" in recorded


def test_a_plan_knows_the_steps_and_the_users(run: Path) -> None:
    config = load_config(run / "config.yaml")
    load_plugins(config.plugins)
    mixture = Mixture(open_stores(config.stores), config.mixture, seed=config.seed)
    plan = make_plan(mixture, steps=6, global_batch=8)
    assert plan.exact
    assert 4 <= plan.fewest_users <= plan.mean_users <= 8
    assert plan.total("targets", task="like") == sum(
        line["tasks"].get("like", {"targets": 0})["targets"] for line in metrics(run)
    )
    sample = make_plan(mixture, steps=6, global_batch=8, max_trees=24)
    assert (sample.exact, sample.walked, sample.trees) == (False, 24, 48)
    assert sample.total("targets") == pytest.approx(plan.total("targets"), rel=0.2)
