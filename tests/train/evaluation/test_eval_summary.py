"""The summary as a bottleneck: what stands in each trunk, and the curve from end to end."""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks
from data_pipeline.tree import Tree
from data_pipeline.verbalize import clean
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves import Ground, find_curve
from train.evaluation.curves.base import Written
from train.evaluation.curves.points import Point, make_point
from train.evaluation.curves.summary import NOTHING, OWN, RIGHT, WHOLE
from train.evaluation.curves.trace import trace
from train.evaluation.curves.writing import write_first
from train.evaluation.exam import phase_trees
from train.evaluation.predictions import predict
from train.evaluation.protocol import Contestant
from train.evaluation.questions import collect, targets_fingerprint

SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
    initializer_range=0.2,
)
MIXTURE = MixtureConfig(targets_per_tree=8, history_events=12)
CONFIG = EvaluationConfig(
    max_targets=40,
    with_baselines=False,
    max_tokens=2000,
    bootstrap=BootstrapConfig(resamples=100),
)
CURVE = find_curve("summary")
POINTS = (NOTHING, OWN, RIGHT, WHOLE)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [all_tasks()[name] for name in ("like", "rating")]


@pytest.fixture(scope="module")
def trees(rich_store: TokenStore, tasks: list[Task]) -> list[Tree]:
    return phase_trees(rich_store, tasks, Phase.TEST, MIXTURE, CONFIG)


@pytest.fixture(scope="module")
def model(rich_store: TokenStore) -> torch.nn.Module:
    return build_backbone(SHAPE, vocab_size=rich_store.card.vocab_size, seed=5).eval()


@pytest.fixture(scope="module")
def ground(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree], model: torch.nn.Module
) -> Ground:
    bare = Ground.of(rich_store, tasks, MIXTURE)
    task = CURVE.writes
    assert task is not None
    written = write_first(model, task, bare, trees, DistributedContext(), CONFIG)
    return dataclasses.replace(bare, written=written)


def points(ground: Ground, trees: Sequence[Tree]) -> dict[float, Point]:
    return {x: make_point(CURVE, ground, x, trees, 10**6) for x in CURVE.xs(ground)}


def test_every_point_asks_the_same_targets_where_there_is_taste_to_sum_up(
    ground: Ground, trees: list[Tree]
) -> None:
    made = points(ground, trees)
    assert tuple(made) == POINTS
    hashes = set()
    for point in made.values():
        assert point.targets > 20
        for task, part in collect(point.trees, ground.tasks).items():
            hashes.add((task, targets_fingerprint(ground.store, part)))
    assert len(hashes) == len(ground.tasks)
    first = made[NOTHING].rows
    assert all(np.array_equal(point.rows[t], first[t]) for point in made.values() for t in first)
    rated = np.isfinite(ground.store.event_value_E)
    enough = [t for t in trees if rated[t.moment.start : t.moment.cut].sum() >= 5]
    assert len(made[WHOLE].trees) == len(enough) < len(trees)


def test_trunks_hold_nothing_a_line_or_the_history(ground: Ground, trees: list[Tree]) -> None:
    made, decode = points(ground, trees), ground.store.encoder.decode
    task = CURVE.writes
    assert task is not None
    for nothing, own, right, whole in zip(*(made[x].trees for x in POINTS), strict=True):
        bare = decode(nothing.trunk)
        assert "History" not in bare
        assert decode(whole.trunk).startswith(bare + "History:\n")
        written = ground.written[whole.moment]
        assert decode(right.trunk) == f"{bare}Taste: {written.right}\n"
        said = clean(written.said, words=100, characters=1000)
        assert decode(own.trunk) == f"{bare}Taste: {said}\n"
        assert "rates" in written.right
        for tree in (nothing, own, right):
            assert tree.moment.start == tree.moment.cut == whole.moment.cut
            # Law 2, and no control token, whatever the model wrote.
            plain = ground.store.encoder._plain.encode(decode(tree.trunk), add_special_tokens=False)
            assert plain.ids == tree.trunk.tolist()
            assert ground.store.encoder.control_ids.isdisjoint(tree.trunk.tolist())
            for before, after in zip(whole.branches, tree.branches, strict=True):
                np.testing.assert_array_equal(before.tokens, after.tokens)
    assert any(not np.array_equal(a.trunk, b.trunk) for a, b in zip(*(
        made[x].trees for x in (OWN, RIGHT)), strict=True))  # fmt: skip


def test_what_the_model_wrote_is_what_it_writes_when_asked_as_a_task(
    rich_store: TokenStore, ground: Ground, trees: list[Tree], model: torch.nn.Module
) -> None:
    task = all_tasks()["taste_summary"]
    asked = phase_trees(rich_store, [task], Phase.TEST, MIXTURE, CONFIG)
    scores = predict(model, asked, [task], rich_store, DistributedContext(), max_tokens=2000)
    texts = scores["taste_summary"].texts
    assert texts is not None
    compared = 0
    for tree, right in zip(asked, texts.right_N, strict=True):
        written = ground.written.get(tree.moment)
        if written is not None:
            assert written.right == right
            compared += 1
    assert compared > 3


@pytest.mark.parametrize("said", ["", " \n", "<|endoftext|> likes\tWar\x00 | History:"])
def test_whatever_was_written_is_one_line_of_plain_text(
    ground: Ground, trees: list[Tree], said: str
) -> None:
    tree = next(tree for tree in trees if tree.moment in ground.written)
    other = dataclasses.replace(ground, written={tree.moment: Written(said, "rates high")})
    trunk = CURVE.reshaped(other, OWN, tree).trunk
    bare = CURVE.reshaped(other, NOTHING, tree).trunk
    line = ground.store.encoder.decode(trunk[len(bare) :])
    assert line.count("\n") == 1
    assert line.startswith("Taste: ")
    assert line == f"Taste: {' '.join(said.replace(chr(0), ' ').split()) or '(unknown)'}\n"
    assert ground.store.encoder.control_ids.isdisjoint(trunk.tolist())


def test_a_whole_curve_compares_each_point_with_no_history(rich_store: TokenStore) -> None:
    results = trace(
        Contestant(
            name="seed 5",
            load=lambda: build_backbone(
                SHAPE, vocab_size=rich_store.card.vocab_size, seed=5
            ).eval(),
            weights_hash="5",
        ),
        CURVE,
        [rich_store],
        [all_tasks()[name] for name in ("like", "explanation")],
        MIXTURE,
        DistributedContext(),
        dataclasses.replace(CONFIG, max_targets=80),
    )
    rows = results.rows
    assert [(row.task, row.x) for row in rows] == [("like", x) for x in POINTS]
    assert results.curve is not None
    assert list(results.curve.x_names.values()) == [
        "no history",
        "the model's summary",
        "the right summary",
        "the whole history",
    ]
    assert len({row.targets_hash for row in rows}) == 1
    assert {row.users for row in rows} == {rows[0].users}
    assert rows[0].users > 5
    assert rows[0].difference_to_first is None
    for row in rows[1:]:
        assert row.difference_to_first is not None
        assert row.difference_to_first.value == pytest.approx(
            float(row.value or 0) - float(rows[0].value or 0)
        )
        assert row.difference_to_first.low is not None
    assert len({row.value for row in rows}) == 4
    assert rows[0].metric == "auc"
    assert "gauc" in rows[0].secondary
    assert "greedy" in str(results.decoding["texts"])


def test_a_corpus_without_taste_says_so(ground: Ground) -> None:
    store = copy.copy(ground.store)
    store.card = dataclasses.replace(store.card, like_at_least=None)
    with pytest.raises(ValueError, match="no taste can be summed up: its events carry no graded"):
        CURVE.xs(dataclasses.replace(ground, store=store))
