import numpy as np
import pytest

from data_pipeline.evaluation_set import EvaluationSet, Phrasing
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks

CONFIG = MixtureConfig(targets_per_tree=8, history_events=12)


def asked(
    store: TokenStore, *, max_targets: int = 40, phrasing: Phrasing = "trained", seed: int = 3
) -> EvaluationSet:
    tasks = Mixture([store], CONFIG, seed=0).tasks
    return EvaluationSet(
        store,
        tasks,
        phase=Phase.TEST,
        config=CONFIG,
        seed=seed,
        max_targets=max_targets,
        phrasing=phrasing,
    )


def test_targets_lie_in_the_phase_and_behind_their_history(tiny_store: TokenStore) -> None:
    evaluation = asked(tiny_store)
    counted = dict.fromkeys(evaluation.targets, 0)
    for tree in evaluation:
        moment = tree.moment
        if moment.user >= 0:
            window = slice(moment.cut, moment.stop)
            assert (tiny_store.event_phase_E[window] == Phase.TEST).all()
            first = tiny_store.user_offsets_U1[moment.user]
            if moment.cut > first:
                assert (
                    tiny_store.event_time_E[moment.cut - 1] < tiny_store.event_time_E[window].min()
                )
        for branch in tree.branches:
            task = evaluation.tasks[branch.task]
            counted[task.name] += 1
            if task.next_only:
                assert branch.subject == moment.cut
            elif task.history != "item":
                assert moment.cut <= branch.subject < moment.stop
    assert counted == evaluation.targets
    assert max(counted.values()) <= 40
    assert counted["like"] == counted["rating"] == 40


def test_it_is_the_same_every_time_and_another_with_another_seed(tiny_store: TokenStore) -> None:
    one, two, three = asked(tiny_store), asked(tiny_store), asked(tiny_store, seed=4)
    assert [tree.moment for tree in one] == [tree.moment for tree in two]
    assert all(
        np.array_equal(a.tokens, b.tokens)
        for left, right in zip(one, two, strict=True)
        for a, b in zip(left.branches, right.branches, strict=True)
    )
    assert [tree.moment for tree in one] != [tree.moment for tree in three]


def test_a_task_is_asked_the_same_whatever_is_asked_beside_it(tiny_store: TokenStore) -> None:
    whole = asked(tiny_store)
    alone = EvaluationSet(
        tiny_store,
        [all_tasks()["rating"]],
        phase=Phase.TEST,
        config=CONFIG,
        seed=3,
        max_targets=40,
    )

    def subjects(evaluation: EvaluationSet) -> list[int]:
        return [
            branch.subject
            for tree in evaluation
            for branch in tree.branches
            if evaluation.tasks[branch.task].name == "rating"
        ]

    assert subjects(whole) == subjects(alone)


def test_held_out_phrasings_are_never_trained_on(tiny_store: TokenStore) -> None:
    held_out = asked(tiny_store, phrasing="held_out")
    mixture = Mixture([tiny_store], CONFIG, seed=0)
    for tree in held_out:
        for branch in tree.branches:
            assert branch.phrasing >= len(held_out.tasks[branch.task].instructions)
    for index in range(100):
        for branch in mixture[index].branches:
            assert branch.phrasing < len(mixture.tasks[branch.task].instructions)


def test_cold_tasks_see_only_new_users_and_items(tiny_store: TokenStore) -> None:
    evaluation = asked(tiny_store)
    names = set()
    for tree in evaluation:
        for branch in tree.branches:
            task = evaluation.tasks[branch.task]
            if task.name == "cold_user_like":
                user = tree.moment.user
                first = tiny_store.user_offsets_U1[user]
                assert tiny_store.event_phase_E[first] == Phase.TEST
                assert tree.moment.cut - first <= 12
            elif task.name == "demographics_like":
                assert tree.moment.start == tree.moment.cut
            elif task.name == "cold_item_like":
                item = tiny_store.event_item_E[branch.subject]
                assert tiny_store.statistics.item_count_N[item] == 0
            elif task.name.startswith("impute"):
                assert tiny_store.statistics.item_count_N[branch.subject] == 0
            else:
                continue
            names.add(task.name)
    assert len(names) == 5


def test_many_users_come_before_any_comes_twice(tiny_store: TokenStore) -> None:
    evaluation = asked(tiny_store, max_targets=20)
    users = [
        tree.moment.user
        for tree in evaluation
        if any(evaluation.tasks[b.task].name == "like" for b in tree.branches)
    ]
    assert len(set(users)) == len(users)


def test_slices_and_bad_indices(tiny_store: TokenStore) -> None:
    evaluation = asked(tiny_store)
    assert len(evaluation[:3]) == 3
    with pytest.raises(IndexError):
        evaluation[len(evaluation)]
