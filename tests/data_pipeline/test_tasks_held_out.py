"""The frozen list of held-out questions, and that no mixture takes one of them.

To accept a change: UPDATE_HELD_OUT=1 pytest tests/data_pipeline/test_tasks_held_out.py
"""

import json
import os
from typing import ClassVar

import pytest

from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks, applicable, register_task
from data_pipeline.tasks.held_out import FROZEN_FILE, frozen_list, held_out_because


def test_the_list_is_what_it_was() -> None:
    found = frozen_list(all_tasks().values())
    if os.environ.get("UPDATE_HELD_OUT"):
        FROZEN_FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    assert found == json.loads(FROZEN_FILE.read_text(encoding="utf-8"))


def test_every_tier_but_the_trained_one_is_held_out() -> None:
    for task in all_tasks().values():
        assert (held_out_because(task) is None) == (task.tier == "T1")


def test_no_phrasing_is_both_trained_and_held_out() -> None:
    trained = {p.lower() for t in all_tasks().values() if t.tier == "T1" for p in t.instructions}
    for task in all_tasks().values():
        kept = {p.lower() for p in task.held_out_instructions}
        if task.tier != "T1":
            kept |= {p.lower() for p in task.instructions}
        assert not kept & trained, task.name


def test_a_mixture_refuses_held_out_tasks_by_name_and_leaves_them_out_of_families(
    rich_store: TokenStore,
) -> None:
    held_out = [
        task.name
        for task in all_tasks().values()
        if task.tier != "T1" and applicable(task, rich_store) is None
    ]
    assert len(held_out) >= 5
    for name in held_out:
        with pytest.raises(DataError, match=f"'{name}'.*never trained on"):
            Mixture([rich_store], MixtureConfig(tasks={name: 1.0, "like": 1.0}), seed=0)
    families = {task.family for task in all_tasks().values() if task.tier == "T1"}
    for config in (MixtureConfig(), MixtureConfig(tasks=dict.fromkeys(families, 1.0))):
        mixture = Mixture([rich_store], config, seed=0)
        assert not {task.name for task in mixture.tasks} & set(held_out)


def test_a_family_of_held_out_tasks_alone_is_refused(rich_store: TokenStore) -> None:
    with pytest.raises(DataError, match=r"timeline.*never trained on"):
        Mixture([rich_store], MixtureConfig(tasks={"timeline": 1.0, "like": 1.0}), seed=0)


def test_a_held_out_question_under_another_name_is_refused(
    rich_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipeline import tasks

    class Copied(type(all_tasks()["odd_one_out"])):  # type: ignore[misc]
        name: ClassVar[str] = "left_over"
        tier = "T1"

    assert isinstance(Copied(), Task)
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    register_task(Copied())
    with pytest.raises(DataError, match="has a phrasing of 'odd_one_out'"):
        Mixture([rich_store], MixtureConfig(tasks={"left_over": 1.0}), seed=0)


@pytest.mark.parametrize("history", ["anonymous", "demonstrations"])
def test_a_history_that_no_training_shows_is_refused(
    rich_store: TokenStore, monkeypatch: pytest.MonkeyPatch, history: str
) -> None:
    from data_pipeline import tasks

    class Shown(type(all_tasks()["like"])):  # type: ignore[misc]
        name: ClassVar[str] = "like_as_shown"

    Shown.history = history
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    register_task(Shown())
    with pytest.raises(DataError, match=f"'like_as_shown' has history '{history}'"):
        Mixture([rich_store], MixtureConfig(tasks={"like_as_shown": 1.0}), seed=0)
