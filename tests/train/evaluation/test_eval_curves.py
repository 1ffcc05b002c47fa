"""Curves: what x changes, that nothing else changes, and a whole curve of a tiny model."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

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
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves import CURVES, Ground, find_curve, register_curve
from train.evaluation.curves.base import bucket
from train.evaluation.curves.months import DAYS_PER_MONTH
from train.evaluation.curves.points import Point, make_point
from train.evaluation.curves.slope import slope
from train.evaluation.curves.trace import _within, positions_of, trace
from train.evaluation.exam import phase_trees
from train.evaluation.metrics import METRICS
from train.evaluation.protocol import Contestant
from train.evaluation.questions import collect, targets_fingerprint
from train.evaluation.results import Results, read_results, write_results
from train.evaluation.scores import TargetScores

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
MIXTURE = MixtureConfig(targets_per_tree=8, history_events=6)
CONFIG = EvaluationConfig(
    max_targets=24,
    max_title_targets=4,
    baseline_trees=40,
    baseline_trials=1,
    max_tokens=2000,
    bootstrap=BootstrapConfig(resamples=100),
)
LIKE = all_tasks()["like"]
NAMES = ("like", "cold_user_like", "pairwise", "next_item_title")


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [all_tasks()[name] for name in NAMES]


@pytest.fixture(scope="module")
def trees(tiny_store: TokenStore, tasks: list[Task]) -> list[Tree]:
    return phase_trees(tiny_store, tasks, Phase.TEST, MIXTURE, CONFIG)


@pytest.fixture(scope="module")
def ground(tiny_store: TokenStore, tasks: list[Task]) -> Ground:
    return Ground.of(tiny_store, tasks, MIXTURE)


def points(name: str, ground: Ground, trees: Sequence[Tree], most: int = 10**6) -> list[Point]:
    curve = CURVES[name]
    return [make_point(curve, ground, x, trees, most) for x in curve.xs(ground)]


@pytest.mark.parametrize(
    "name", sorted(n for n, c in CURVES.items() if c.same_targets and c.wants(LIKE))
)
def test_every_point_asks_the_same_where_a_curve_says_so(
    name: str, ground: Ground, trees: list[Tree]
) -> None:
    asked = collect(trees, ground.tasks)
    whole = {t: targets_fingerprint(ground.store, qs) for t, qs in asked.items()}
    for point in points(name, ground, trees):
        now = collect(point.trees, ground.tasks)
        for task in ground.tasks:
            if now[task.name]:
                assert targets_fingerprint(ground.store, now[task.name]) == whole[task.name]
                assert point.rows[task.name].tolist() == list(range(len(asked[task.name])))


@pytest.mark.parametrize("name", ["cold_users", "cold_items", "months"])
def test_the_points_of_a_sliced_curve_share_no_target_and_lose_few(
    name: str, ground: Ground, trees: list[Tree]
) -> None:
    made = points(name, ground, trees)
    asked = collect(trees, ground.tasks)
    for task in ground.tasks:
        rows = [row for point in made for row in point.rows.get(task.name, [])]
        assert len(rows) == len(set(rows))
        if task.name == "like":  # one candidate, a user, a time: all of it lies somewhere
            assert sorted(rows) == list(range(len(asked["like"])))
            assert sum(bool(len(point.rows.get("like", []))) for point in made) >= 1
    for point in made:
        now = collect(point.trees, ground.tasks)
        for task, part in now.items():
            assert part == [asked[task][row] for row in point.rows.get(task, [])]


def test_shots_cut_the_history_to_the_newest_events(ground: Ground, trees: list[Tree]) -> None:
    store = ground.store
    made = {point.x: point for point in points("shots", ground, trees)}
    for base, none, five, all_of_it in zip(
        trees, made[0].trees, made[5].trees, made[100].trees, strict=True
    ):
        user = base.moment.user
        first = int(store.user_offsets_U1[user])
        assert (none.moment.start, five.moment.cut) == (base.moment.cut, base.moment.cut)
        assert five.moment.start == max(first, base.moment.cut - 5)
        assert all_of_it.moment.start == first  # forty events of a user at most
        history = store.piece_of("age", 0), store.encoder.decode(none.trunk)
        assert "History" not in history[1]
        assert len(none.trunk) <= len(five.trunk) <= len(all_of_it.trunk)
        # The newest shots stand at the end, as they do in a longer history.
        tail = store.encoder.decode(all_of_it.trunk)
        recent = store.encoder.decode(five.trunk).partition("History:\n")[2]
        assert tail.endswith(recent)
    assert made[0].reached["like"] == 1.0
    assert made[100].reached["like"] == 0.0
    known_N = [ground.known_events(tree) for tree in trees for b in tree.branches if b.task == 0]
    assert made[10].reached["like"] == pytest.approx(np.mean(np.array(known_N) >= 10))


def test_context_fills_the_trunk_up_to_its_tokens(ground: Ground, trees: list[Tree]) -> None:
    curve = CURVES["context"]
    branch = max(len(branch.tokens) for tree in trees for branch in tree.branches) + 1
    longest = max(len(ground.with_history(tree, 1 << 30).trunk) for tree in trees)
    x = int(longest * 0.6) + branch
    point = make_point(curve, ground, x, trees, 10**6)
    whole = [ground.with_history(tree, 1 << 30) for tree in trees]
    dropped = 0
    for tree, full in zip(point.trees, whole, strict=True):
        room = x - 1 - max(len(branch.tokens) for branch in tree.branches)
        assert len(tree.trunk) <= room
        if len(full.trunk) <= room:
            np.testing.assert_array_equal(tree.trunk, full.trunk)
        else:
            dropped += 1
            assert len(tree.trunk) > room - 40  # whole events, of some twenty tokens each
    assert dropped
    assert point.longest <= x
    assert curve.xs(ground) == (1024, 2048, 4096, 8192, 16384, 32768)


def test_cold_users_and_items_are_told_by_what_was_known(ground: Ground, trees: list[Tree]) -> None:
    xs = CURVES["cold_users"].xs(ground)
    for point in points("cold_users", ground, trees):
        above = [x for x in xs if x > point.x]
        for tree in point.trees:
            known = tree.moment.cut - int(ground.store.user_offsets_U1[tree.moment.user])
            assert known >= point.x
            assert not above or known < above[0]
    counts = ground.store.statistics.item_count_N
    xs = CURVES["cold_items"].xs(ground)
    for point in points("cold_items", ground, trees):
        above = [x for x in xs if x > point.x]
        for tree in point.trees:
            for branch in tree.branches:
                (item,) = branch.question.candidates
                assert counts[item] >= point.x
                assert not above or counts[item] < above[0]
    assert bucket(7, (0, 5, 10)) == 5
    assert bucket(-1, (0, 5)) is None


def test_months_count_from_the_end_of_training_and_need_one(
    ground: Ground, trees: list[Tree]
) -> None:
    end = int(ground.store.card.split["train_end"])
    for point in points("months", ground, trees):
        for tree in point.trees:
            days = (tree.moment.time - end) / 86_400_000
            assert point.x * DAYS_PER_MONTH <= days < (point.x + 1) * DAYS_PER_MONTH
    other = dataclasses.replace(
        ground.store.card, split={**ground.store.card.split, "train_end": None, "method": "x"}
    )
    store = copy.copy(ground.store)
    store.card = other
    with pytest.raises(ValueError, match="tiny is split by x, so training has no end in time"):
        CURVES["months"].xs(dataclasses.replace(ground, store=store))


def test_phrasings_change_the_instruction_and_nothing_behind_it(
    ground: Ground, trees: list[Tree]
) -> None:
    curve = CURVES["phrasing"]
    names = curve.names(ground)
    assert list(names.values()) == ["seen 1", "seen 2", "seen 3", "seen 4", "unseen 1"]
    decode = ground.store.encoder.decode
    for point in points("phrasing", ground, trees):
        number = int(point.x)
        for base, tree in zip(trees, point.trees, strict=True):
            np.testing.assert_array_equal(base.trunk, tree.trunk)
            for before, after in zip(base.branches, tree.branches, strict=True):
                task = ground.tasks[after.task]
                every = (*task.instructions, *task.held_out_instructions)
                assert after.phrasing == number
                words = every[number].format(item="film", items="films")
                assert decode(after.tokens).startswith(words) or words in decode(after.tokens)
                behind = [
                    decode(branch.tokens).partition(
                        every[branch.phrasing].format(item="film", items="films")
                    )[2]
                    for branch in (before, after)
                ]
                assert behind[0] == behind[1] != ""


def test_a_point_holds_at_most_so_many_targets_of_a_part(ground: Ground, trees: list[Tree]) -> None:
    for point in points("cold_users", ground, trees, most=3):
        assert all(len(rows) <= 3 for rows in point.rows.values())


def test_points_beyond_the_models_positions_are_left_out_and_said(
    ground: Ground, trees: list[Tree]
) -> None:
    made = points("shots", ground, trees)
    assert [p.longest for p in made] == sorted(p.longest for p in made)
    limit = made[3].longest
    kept, left_out = _within(made, limit)
    assert [point.x for point in kept] == [p.x for p in made if p.longest <= limit]
    assert left_out
    assert all(f"more than the model's {limit} positions" in why for why in left_out.values())
    model = build_backbone(SHAPE, vocab_size=50, seed=0)
    assert positions_of(model) == model.config.max_position_embeddings
    assert positions_of(torch.nn.Linear(1, 1)) is None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("baselines")


def measured(store: TokenStore, name: str, folder: Path | None) -> Results:
    def load() -> torch.nn.Module:
        return build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=1).eval()

    return trace(
        Contestant(name="seed 1", load=load, weights_hash="1"),
        find_curve(name),
        [store],
        [all_tasks()[task] for task in ("like", "cold_user_like")],
        MIXTURE,
        DistributedContext(),
        CONFIG,
        cache_folder=folder,
    )


@pytest.mark.parametrize("name", sorted(n for n, c in CURVES.items() if c.wants(LIKE)))
def test_a_whole_curve_is_a_result_of_the_same_schema(
    name: str, tiny_store: TokenStore, tmp_path: Path, cache: Path
) -> None:
    results = measured(tiny_store, name, cache)
    path = tmp_path / f"curve-{name}.json"
    write_results(results, path)
    assert read_results(path) == results
    assert results.curve is not None
    assert results.curve.name == name
    xs = [row.x for row in results.rows if row.task == "like"]
    assert xs == sorted(set(xs))
    assert len(xs) >= {"months": 1, "cold_items": 2}.get(name, 3)
    for row in results.rows:
        assert row.n > 0
        assert set(row.baselines) == set(all_tasks()[row.task].baselines)
        has_difference = results.curve.same_targets and row.x != xs[0]
        assert (row.difference_to_first is not None) == has_difference
    like = [row for row in results.rows if row.task == "like"]
    if results.curve.same_targets:
        # Baselines know the whole history whatever x, and the targets are the same.
        assert len({row.targets_hash for row in like}) == 1
        assert len({tuple(row.baselines.items()) for row in like}) == 1
        if name != "context":  # all of these histories fit into the least context
            assert len({row.value for row in like}) > 1
    else:
        assert len({row.targets_hash for row in like}) == len(like)


def test_the_slope_over_months_is_that_of_a_straight_line() -> None:
    rng = np.random.default_rng(0)

    def part(month: int, n: int) -> TargetScores:
        """Right with probability 0.9 - 0.1 * month."""
        right_N = rng.random(n) < 0.9 - 0.1 * month
        p_NK = np.where(right_N[:, None], [[0.2, 0.8]], [[0.8, 0.2]])
        whole = np.zeros(n, np.int64)
        return TargetScores(
            groups_N=rng.integers(0, 60, n),
            subjects_N=whole,
            labels_N=whole + 1,
            n_choices_N=whole + 2,
            probabilities_NK=p_NK,
            gains_NK=np.zeros((n, 0)),
            values_N=np.full(n, np.nan),
            class_values_K=np.arange(2.0),
            better_N=whole - 1,
            tied_N=whole,
            ranked_N=whole,
            label_mass_N=np.ones(n),
        )

    class Accuracy(type(all_tasks()["like"])):  # type: ignore[misc]
        metric = "accuracy"

    parts = [(float(month), part(month, 800 - 100 * month)) for month in range(4)]
    found = slope(Accuracy(), parts, BootstrapConfig(resamples=200))
    assert found is not None
    values = [METRICS["accuracy"](scores) for _, scores in parts]
    sizes = [len(scores) for _, scores in parts]
    expected = np.polyfit([x for x, _ in parts], values, 1, w=np.sqrt(sizes))[0]
    assert found.value == pytest.approx(expected)
    assert found.low is not None
    assert found.high is not None
    assert -0.2 < found.low < found.value < found.high < 0.0
    assert slope(Accuracy(), parts[:1], BootstrapConfig(resamples=5)) is None


def test_a_wrong_name_lists_the_nearest_and_a_taken_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no curve is called 'shot'; nearest: shots"):
        find_curve("shot")
    with pytest.raises(ValueError, match="a curve called 'shots' already"):
        register_curve(CURVES["shots"])


def test_tasks_without_such_a_curve_are_told(tiny_store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"none of the tasks \['similar'\] has a curve of shots"):
        trace(
            Contestant(name="never loaded", load=lambda: pytest.fail("loaded")),
            find_curve("shots"),
            [tiny_store],
            [all_tasks()["similar"]],
            MIXTURE,
            DistributedContext(),
            CONFIG,
        )
