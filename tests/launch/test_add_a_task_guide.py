"""The guide's own file is a task that can be shown, planned and trained on."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_plugins import registries_restored
from rank_processes import config_yaml

from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks
from launch.cli import main
from train.evaluation.metrics.registry import METRICS
from train.plugins import load_plugins

GUIDE = Path(__file__).resolve().parents[2] / "launch" / "guides" / "add-a-task.md"
BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = "better_than_the_last"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every file that the guide prints."""
    for _, name, content in BLOCK.findall(GUIDE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    modules, metrics = set(sys.modules), dict(METRICS)
    with registries_restored():
        yield tmp_path
    METRICS.clear()
    METRICS.update(metrics)
    for name in set(sys.modules) - modules:
        if name.startswith("brewhouse_plugin_"):
            del sys.modules[name]


def output(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def test_the_file_is_under_thirty_lines_of_code(folder: Path) -> None:
    lines = (folder / "my_tasks.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 30


def test_the_task_asks_what_it_says(folder: Path, tiny_store: TokenStore) -> None:
    load_plugins(["my_tasks.py"])
    mixture = Mixture([tiny_store], MixtureConfig(tasks={NAME: 1.0}), seed=0)
    labels = []
    for index in range(60):
        tree = mixture[index]
        for branch in tree.branches:
            last = tiny_store.event_value_E[tree.moment.cut - 1]
            labels.append(branch.question.label)
            assert labels[-1] == (tiny_store.event_value_E[branch.subject] > last)
    assert 0.1 < np.mean(labels) < 0.9
    task = all_tasks()[NAME]
    assert len(task.instructions) == 4
    assert len(task.held_out_instructions) == 1


def test_its_commands_run(
    folder: Path, tiny_store: TokenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "my_tasks.py")
    shown = output(capsys, *plugin, "tasks", "show", NAME, "--store", tiny_store.folder)
    assert "X01 better_than_the_last, family mine" in shown
    listed = output(capsys, *plugin, "tasks", "list", "--store", tiny_store.folder, "--json")
    assert NAME in {task["name"] for task in json.loads(listed)["tasks"] if task["corpora"]}


def test_a_plan_of_its_config_is_all_of_it(
    folder: Path, tiny_store: TokenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "whole.yaml").write_text(config_yaml(tiny_store.folder, folder / "run", {}))
    whole = yaml.safe_load((folder / "whole.yaml").read_text())
    (folder / "shop.yaml").write_text(
        yaml.safe_dump(whole | yaml.safe_load((folder / "shop.yaml").read_text()))
    )
    plan = json.loads(output(capsys, "tasks", "plan", "shop.yaml", "--json"))
    assert plan["exact"] is True
    assert set(plan["tasks"]) == {NAME, "like", "history"}
    assert plan["tasks"][NAME]["targets"] > 0
    assert plan["users_per_step"]["fewest"] > 4
    stages = "mixture.curriculum=[{until_tree: 8, history_events: 2, max_trunk_tokens: 128}]"
    text = output(capsys, "tasks", "plan", "shop.yaml", "max_steps=3", stages)
    assert NAME in text
    assert "24 trees in 3 steps" in text
    assert "until tree 8 (step 1): 2 events and 128 tokens of trunk at most" in text
    text = output(capsys, "tasks", "plan", "shop.yaml", "--max-trees", "16", "--json")
    assert json.loads(text)["walked_trees"] == 16


def test_the_metric_registers(folder: Path) -> None:
    load_plugins(["my_metrics.py"])
    assert METRICS["bits"].higher_is_better is False
