"""Baselines of the tasks about queries, tags, links and reviews."""

import numpy as np
import pytest

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks, applicable
from train.evaluation.baselines import BASELINES, Questions
from train.evaluation.metrics import find_metric
from train.evaluation.questions import Asked, collect, group_of
from train.evaluation.rows import has_sampled_candidates

CONFIG = MixtureConfig(targets_per_tree=8, history_events=12)
FAMILIES = ("search", "tags", "texts")


@pytest.fixture(scope="module")
def tasks(rich_store: TokenStore) -> list[Task]:
    named = {name: t for name, t in all_tasks().items() if t.family in FAMILIES}
    named["linked_items"] = all_tasks()["linked_items"]
    return [task for task in named.values() if applicable(task, rich_store) is None]


@pytest.fixture(scope="module")
def asked(rich_store: TokenStore, tasks: list[Task]) -> dict[Phase, dict[str, list[Asked]]]:
    chosen = MixtureConfig(tasks={task.name: 1.0 for task in tasks if task.tier == "T1"})
    mixture = Mixture([rich_store], chosen, seed=1)
    found = {Phase.TRAIN: collect((mixture[i] for i in range(60)), mixture.tasks)}
    for phase in (Phase.VALIDATION, Phase.TEST):
        trees = EvaluationSet(
            rich_store, tasks, phase=phase, config=CONFIG, seed=3, max_targets=200
        )
        found[phase] = collect(trees, tasks)
    return found


def of_task(asked: dict[Phase, dict[str, list[Asked]]], name: str) -> Questions:
    return Questions(
        train=asked[Phase.TRAIN].get(name, []),
        validation=asked[Phase.VALIDATION][name],
        test=asked[Phase.TEST][name],
    )


def test_every_task_is_answered_by_each_of_its_baselines(
    rich_store: TokenStore, tasks: list[Task], asked: dict[Phase, dict[str, list[Asked]]]
) -> None:
    for name in sorted({name for task in tasks for name in task.baselines}):
        baseline = BASELINES[name](rich_store, 0)
        baseline.fit()
        for task in tasks:
            part = of_task(asked, task.name)
            if name in task.baselines and part.test:
                scores = baseline.answer(task, part)
                total = 0.0 if task.is_written else 1.0
                np.testing.assert_allclose(scores.probabilities_NK.sum(axis=1), total)
                assert np.isfinite(find_metric(task.metric)(scores)), (task.name, name)


@pytest.mark.parametrize("name", ["search_match", "query_ranking", "personalised_search"])
def test_shared_words_tell_what_fits_a_query_that_names_a_genre(
    rich_store: TokenStore, asked: dict[Phase, dict[str, list[Asked]]], name: str
) -> None:
    task, part = all_tasks()[name], of_task(asked, name)
    values = {}
    for baseline in (BASELINES["word_overlap"], BASELINES["majority"]):
        fitted = baseline(rich_store, 0)
        fitted.fit()
        metric = "auc" if task.kind == "label" else "mrr"
        values[baseline.name] = find_metric(metric)(fitted.answer(task, part))
    assert values["word_overlap"] > values["majority"] + 0.2


def test_a_task_without_a_query_is_no_task_for_it(
    rich_store: TokenStore, asked: dict[Phase, dict[str, list[Asked]]]
) -> None:
    baseline = BASELINES["word_overlap"](rich_store, 0)
    baseline.fit()
    with pytest.raises(ValueError, match=r"word_overlap(?s:.)*'tag_relevance'"):
        baseline.answer(all_tasks()["tag_relevance"], of_task(asked, "tag_relevance"))


def test_questions_of_a_query_are_drawn_together_and_those_of_a_user(
    asked: dict[Phase, dict[str, list[Asked]]],
) -> None:
    for one in asked[Phase.TEST]["search_match"]:
        assert one.question.query is not None
        assert group_of(one) == -1 - one.question.query
    for one in asked[Phase.TEST]["personalised_search"]:
        assert group_of(one) == one.moment.user >= 0


def test_results_of_a_search_are_no_sampled_candidates(
    rich_store: TokenStore, asked: dict[Phase, dict[str, list[Asked]]]
) -> None:
    test = asked[Phase.TEST]
    search = all_tasks()["personalised_search"]
    assert not has_sampled_candidates(search, test[search.name], rich_store)
    suggestion = all_tasks()["query_suggestion"]
    assert has_sampled_candidates(suggestion, test[suggestion.name], rich_store)
