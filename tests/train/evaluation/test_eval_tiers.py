"""Seen and unseen tasks, counted from a made result."""

from collections import Counter
from dataclasses import replace

import pytest
from made_run import make_run

from data_pipeline.tasks import all_tasks
from train.evaluation.results import Results, read_results
from train.evaluation.tiers import NOT_TRAINED, TIERS, Won, tier_counts


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    run = make_run(tmp_path_factory.mktemp("tiers") / "run", steps=30)
    return read_results(run / "evaluation" / "results.json")


def test_every_task_counts_in_its_tier(results: Results) -> None:
    counts = tier_counts(results)
    tiers = Counter(task.tier for task in all_tasks().values())
    assert {one.tier: one.tasks for one in counts} == tiers
    assert [one.tier for one in counts] == [tier for tier in TIERS if tier in tiers]
    assert {one.corpus for one in counts} == {"movielens-100k"}
    for one in counts:
        rows = [row for row in results.rows if row.tier == one.tier]
        assert one.words == TIERS[one.tier]
        assert one.untrained == Won(len(rows), len(rows))
        assert one.trivial == Won(sum(bool(row.beats_trivial) for row in rows), len(rows))
        assert one.best == Won(sum(bool(row.beats_best) for row in rows), len(rows))
    assert sum(one.best.won for one in counts) < len(results.rows)


def test_each_corpus_is_counted_alone_and_what_was_not_compared_is_left_out(
    results: Results,
) -> None:
    first = results.rows[0]
    rows = [replace(first, corpus="shop", beats_untrained=None, beats_best=False), *results.rows]
    shop, *others = tier_counts(replace(results, rows=rows))
    assert (shop.corpus, shop.tasks) == ("shop", 1)
    assert (shop.untrained, shop.trivial, shop.best) == (Won(0, 0), Won(1, 1), Won(0, 1))
    assert others == tier_counts(results)


def test_a_task_that_the_mixture_left_out_is_no_seen_task(results: Results) -> None:
    mixture = {"tasks": {"like": 1.0, "rating": 0.0, "comparison": 1.0}}
    counts = tier_counts(replace(results, mixture=mixture))
    seen, *_, left_out = counts
    named = {
        task.name
        for task in all_tasks().values()
        if task.tier == "T1" and (task.name == "like" or task.family == "comparison")
    }
    assert (seen.tier, seen.words, seen.tasks) == ("T1", TIERS["T1"], len(named))
    assert (left_out.tier, left_out.words) == ("T1", NOT_TRAINED)
    assert sum(one.tasks for one in counts) == len(results.rows)
