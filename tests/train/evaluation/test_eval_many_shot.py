"""The curve over labelled rows of other users, and the words that its questions are made of."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks
from data_pipeline.tree import Tree
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.baselines import BASELINES, Questions
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves import Ground, find_curve
from train.evaluation.curves.points import Point, make_point
from train.evaluation.curves.trace import trace
from train.evaluation.exam import phase_trees
from train.evaluation.metrics import find_metric
from train.evaluation.protocol import Contestant, evaluate
from train.evaluation.questions import collect, group_of, targets_fingerprint

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
MIXTURE = MixtureConfig(targets_per_tree=8)
CONFIG = EvaluationConfig(
    max_targets=24,
    calibration_targets=8,
    baseline_trees=10,
    baseline_trials=1,
    max_tokens=2000,
    bootstrap=BootstrapConfig(resamples=100),
)
CURVE = find_curve("many_shot")


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [task for task in all_tasks().values() if CURVE.wants(task)]


@pytest.fixture(scope="module")
def trees(rich_store: TokenStore, tasks: list[Task]) -> list[Tree]:
    return phase_trees(rich_store, tasks, Phase.TEST, CURVE.mixture(MIXTURE), CONFIG)


@pytest.fixture(scope="module")
def points(rich_store: TokenStore, tasks: list[Task], trees: list[Tree]) -> list[Point]:
    ground = Ground.of(rich_store, tasks, MIXTURE)
    return [make_point(CURVE, ground, x, trees, 10**6) for x in CURVE.xs(ground)]


def test_every_point_asks_the_same_behind_the_nearest_rows(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree], points: list[Point]
) -> None:
    decode = rich_store.encoder.decode
    assert [point.x for point in points] == [0, 4, 16, 64, 256]
    assert len(tasks) == 4
    asked = collect(trees, tasks)
    for point in points:
        now = collect(point.trees, tasks)
        for task in tasks:
            assert len(now[task.name]) == 24
            assert targets_fingerprint(rich_store, now[task.name]) == targets_fingerprint(
                rich_store, asked[task.name]
            )
        for whole, tree in zip(trees, point.trees, strict=True):
            rows = decode(tree.trunk).partition("Examples:\n")[2]
            assert rows.count("Answer:") == point.x
            assert decode(points[-1].trees[trees.index(whole)].trunk).endswith(rows)
            for before, after in zip(whole.branches, tree.branches, strict=True):
                np.testing.assert_array_equal(before.tokens, after.tokens)
        assert set(point.reached.values()) == {1.0}
    lengths = [point.longest for point in points]
    assert lengths == sorted(lengths)


def test_a_point_is_the_exam_with_so_many_rows(
    rich_store: TokenStore, tasks: list[Task], points: list[Point]
) -> None:
    """What an evaluation asks with k rows is what the curve asks at k."""
    mixture = replace(MIXTURE, demonstrations=16, max_trunk_tokens=1 << 20)
    alone = phase_trees(rich_store, tasks, Phase.TEST, mixture, CONFIG)
    (point,) = (point for point in points if point.x == 16)
    for one, other in zip(alone, point.trees, strict=True):
        assert one.moment == other.moment
        np.testing.assert_array_equal(one.trunk, other.trunk)


def test_it_is_said_where_there_are_fewer_rows(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree]
) -> None:
    ground = Ground.of(rich_store, tasks, MIXTURE)
    few = [
        replace(t, moment=replace(t.moment, demonstrations=t.moment.demonstrations[:10]))
        for t in trees
    ]
    assert set(make_point(CURVE, ground, 4, few, 100).reached.values()) == {1.0}
    assert set(make_point(CURVE, ground, 16, few, 100).reached.values()) == {0.0}


def contestant(store: TokenStore) -> Contestant:
    def load() -> torch.nn.Module:
        return build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=1).eval()

    return Contestant(name="seed 1", load=load, weights_hash="1")


def users_of(trees: Sequence[Tree]) -> set[int | None]:
    return {branch.question.user for tree in trees for branch in tree.branches}


def test_a_whole_curve_leaves_out_what_the_model_has_no_positions_for(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree], points: list[Point]
) -> None:
    results = trace(
        contestant(rich_store),
        CURVE,
        [rich_store],
        list(all_tasks().values()),
        MIXTURE,
        DistributedContext(),
        CONFIG,
    )
    assert results.curve is not None
    assert points[3].longest < SHAPE.max_position_embeddings < points[4].longest
    assert f"{points[4].longest} tokens" in results.curve.left_out["256"]
    for task in tasks:
        rows = [row for row in results.rows if row.task == task.name]
        assert [row.x for row in rows] == [0, 4, 16, 64]
        assert len({row.targets_hash for row in rows}) == 1
        assert len({tuple(row.baselines.items()) for row in rows}) == 1
        assert len({row.secondary["logloss"] for row in rows}) == len(rows)
        assert all(row.difference_to_first is not None for row in rows[1:])
        assert set(rows[0].baselines) == set(task.baselines)
    assert {row.task for row in results.rows} == {task.name for task in tasks}
    corpus = results.corpora[0]
    assert corpus.users_expected == corpus.users_scored == len(users_of(trees))


def test_it_is_said_why_a_corpus_has_no_such_curve(tiny_store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"curve of many_shot.*no field 'review'"):
        trace(
            contestant(tiny_store),
            CURVE,
            [tiny_store],
            [all_tasks()["many_shot_spoiler"]],
            MIXTURE,
            DistributedContext(),
            CONFIG,
        )


def test_an_evaluation_asks_them_by_users(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree]
) -> None:
    found = evaluate(
        contestant(rich_store), None, [rich_store], tasks, MIXTURE, DistributedContext(), CONFIG
    )
    corpus = found.results.corpora[0]
    assert corpus.users_expected == corpus.users_scored == len(users_of(trees)) > 5
    assert {row.n for row in found.results.rows} == {24}
    for name, scores in found.predictions.items():
        (task,) = (task for task in tasks if task.name == name[1])
        asked = collect(trees, tasks)[task.name]
        assert scores.groups_N.tolist() == [group_of(one) for one in asked]
        assert set(scores.groups_N.tolist()) <= users_of(trees)
        assert scores.n_choices_N[0] == len(task.labels)


def test_words_tell_a_rating_and_no_spoiler_that_was_tossed_for(
    rich_store: TokenStore, tasks: list[Task]
) -> None:
    """Each rating has a word of its own in the made reviews; spoilers are random."""
    wide = replace(CONFIG, max_targets=200)
    validation, test = (
        collect(phase_trees(rich_store, tasks, phase, MIXTURE, wide), tasks)
        for phase in (Phase.VALIDATION, Phase.TEST)
    )
    baseline = BASELINES["bag_of_words"](rich_store, 0)
    baseline.fit()
    values = {}
    for task in tasks:
        questions = Questions(train=[], validation=validation[task.name], test=test[task.name])
        scores = baseline.answer(task, questions)
        np.testing.assert_allclose(scores.probabilities_NK.sum(axis=1), 1.0)
        values[task.name] = find_metric(task.metric)(scores)
    assert values["many_shot_review_rating"] > 0.8
    assert 0.3 < values["many_shot_spoiler"] < 0.7
    one_answer = [one for one in validation["many_shot_spoiler"] if not one.question.label]
    spoiler = all_tasks()["many_shot_spoiler"]
    scores = baseline.answer(
        spoiler, Questions(train=[], validation=one_answer, test=test[spoiler.name])
    )
    assert (scores.probabilities_NK == scores.probabilities_NK[0]).all()
    assert scores.probabilities_NK[0, 0] > 0.9
