"""`brewhouse tasks list` and `show`: what applies, why not, and how it is asked."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks, applicable
from launch.cli import app


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_whole_catalogue_is_listed_with_all_its_phrasings() -> None:
    listed = json.loads(run("tasks", "list", "--json"))["tasks"]
    assert {row["name"] for row in listed} == set(all_tasks())
    for row in listed:
        task = all_tasks()[row["name"]]
        assert row["phrasings"] == {
            "train": list(task.instructions),
            "held_out": list(task.held_out_instructions),
        }
        assert (row["family"], row["tier"], row["metric"]) == (task.family, task.tier, task.metric)
        assert "corpora" not in row


def test_several_corpora_are_told_apart(tiny_store: TokenStore, rich_store: TokenStore) -> None:
    words = ("--store", tiny_store.folder, "--corpus", rich_store.folder)
    found = json.loads(run("tasks", "list", *words, "--json"))
    assert sorted(found["corpora"]) == ["tiny", "tiny-rich"]
    for row in found["tasks"]:
        for name, store in (("tiny", tiny_store), ("tiny-rich", rich_store)):
            reason = applicable(all_tasks()[row["name"]], store)
            assert (name in row["corpora"]) == (reason is None)
            assert row["not_applicable"].get(name) == reason
    click = next(row for row in found["tasks"] if row["name"] == "click")
    assert click["corpora"] == ["tiny-rich"]


def test_a_person_reads_why_a_task_does_not_apply(tiny_store: TokenStore) -> None:
    text = " ".join(run("tasks", "list", "--store", tiny_store.folder).split())
    assert "evaluation only" in text
    assert "no: all its events are" in text


@pytest.mark.parametrize("name", ["sequence_completion", "probe_gender", "like"])
def test_tasks_for_evaluation_only_are_shown_too(tiny_store: TokenStore, name: str) -> None:
    words = ("tasks", "show", name, "--store", tiny_store.folder, "--index", 1, "--json")
    tree = json.loads(run(*words))["tree"]
    assert {branch["task"] for branch in tree["branches"]} == {name}


@pytest.mark.parametrize("name", ["explanation", "taste_summary"])
def test_a_task_that_is_answered_by_a_text_shows_it(rich_store: TokenStore, name: str) -> None:
    words = ("tasks", "show", name, "--store", rich_store.folder)
    text = run(*words)
    assert "answers: a text of one line" in text
    assert "\nText: " in text
    assert "out of" not in text
    shown = json.loads(run(*words, "--json"))
    assert shown["kind"] == "text"
    for branch in shown["tree"]["branches"]:
        assert branch["answer"].endswith("\n")
        assert len(branch["answer_tokens"]) > 1
        assert branch["choices"] == []


def test_a_plan_says_how_many_users_are_learned_from(
    tiny_store: TokenStore, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "model: {architecture: qwen3, hidden_size: 32, intermediate_size: 64, "
        "num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16}\n"
        f"stores: [{tiny_store.folder}]\noutput_dir: {tmp_path / 'run'}\n"
        "max_steps: 2\nlearning_rate: 1.0e-3\nglobal_batch_size: 16\n"
    )
    words = ("tasks", "plan", config, "mixture.user_fraction=0.5")
    planned = json.loads(run(*words, "--json"))["training_users"]
    trained = int((tiny_store.train_stops_U > tiny_store.user_offsets_U1[:-1]).sum())
    assert 0.3 * trained < planned["tiny"] < 0.7 * trained
    assert f"tiny: {planned['tiny']} users are learned from, by user_fraction 0.5" in run(*words)
    whole = json.loads(run(*words[:3], "--json"))["training_users"]
    assert whole == {"tiny": trained}


def test_an_audit_of_the_catalogue_finds_nothing(tiny_store: TokenStore) -> None:
    found = json.loads(run("tasks", "audit", "--store", tiny_store.folder, "--json"))
    assert found == {"tasks": len(all_tasks()), "corpora": ["tiny"], "leaks": []}


def test_an_audit_that_finds_a_leak_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    like = all_tasks()["like"]
    monkeypatch.setattr(type(like), "held_out_instructions", like.instructions[:1])
    result = CliRunner().invoke(app, ["tasks", "audit"])
    assert result.exit_code == 1
    assert "like: " in result.stdout
    assert "is kept back, but training on 'like' says it as well" in result.stdout
