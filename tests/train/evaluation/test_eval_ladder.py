"""The context ladder: what each rung holds and that it holds nothing else, of the same targets."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from tiny_corpus import tiny_tables

from data_pipeline.build import compile_store
from data_pipeline.corpus import write_corpus
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks, applicable
from data_pipeline.tree import Tree
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves import Ground, find_curve
from train.evaluation.curves.ladder import PROFILE, RECORD, TITLE, TITLES, WHOLE
from train.evaluation.curves.points import Point, make_point
from train.evaluation.curves.trace import trace
from train.evaluation.exam import phase_trees
from train.evaluation.protocol import Contestant
from train.evaluation.questions import collect, targets_fingerprint

CURVE = find_curve("ladder")
MIXTURE = MixtureConfig(targets_per_tree=8, history_events=6)
CONFIG = EvaluationConfig(
    max_targets=24,
    with_baselines=False,
    max_tokens=2000,
    bootstrap=BootstrapConfig(resamples=100),
)
START = "Questions about films.\n"


def exam(store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig) -> list[Tree]:
    return phase_trees(store, tasks, Phase.TEST, mixture, CONFIG)


def rungs(
    store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig
) -> tuple[list[Tree], dict[float, Point]]:
    trees, ground = exam(store, tasks, mixture), Ground.of(store, tasks, mixture)
    return trees, {x: make_point(CURVE, ground, x, trees, 10**6) for x in CURVE.xs(ground)}


def named(*names: str) -> list[Task]:
    return [all_tasks()[name] for name in names]


def text(store: TokenStore, kind: str, row: int) -> str:
    return store.encoder.decode(store.piece(store.piece_of(kind, row)))


@pytest.mark.parametrize("style", ["plain", "labelled"])
def test_each_rung_holds_what_it_says_and_nothing_else(
    tiny_store: TokenStore, style: Literal["plain", "labelled"]
) -> None:
    tasks = named("like", "rating", "pairwise", "best_of_list")
    mixture = replace(MIXTURE, styles=(style,))
    trees, made = rungs(tiny_store, tasks, mixture)
    assert tuple(made) == (TITLE, RECORD, PROFILE, TITLES, WHOLE)
    decode = tiny_store.encoder.decode
    for place, base in enumerate(trees):
        tree = {x: point.trees[place] for x, point in made.items()}
        assert [len(tree[x].branches) for x in made] == [len(base.branches)] * len(made)
        moment = base.moment
        profile = f"{START}Profile:{text(tiny_store, 'profile', moment.user)}"
        shown = tiny_store.event_item_E[moment.start : moment.cut].tolist()
        titles = "".join(f"|{text(tiny_store, 'title', item)}" for item in shown)
        expected = {
            TITLE: START,
            RECORD: START,
            PROFILE: profile,
            TITLES: f"{profile}History:\n{titles}" if shown else profile,
            WHOLE: decode(base.trunk),
        }
        assert {x: decode(tree[x].trunk) for x in made} == expected
        for number, branch in enumerate(base.branches):
            asked = decode(branch.tokens)
            for item in branch.question.candidates:
                record = text(tiny_store, f"line/{style}", item)
                assert record in asked
                asked = asked.replace(record, text(tiny_store, "title", item))
            assert decode(tree[TITLE].branches[number].tokens) == asked
            assert " | " not in asked
            for x in (RECORD, PROFILE, TITLES, WHOLE):
                np.testing.assert_array_equal(tree[x].branches[number].tokens, branch.tokens)


def test_pieces_of_a_rung_are_as_its_text_is_encoded(tiny_store: TokenStore) -> None:
    _, made = rungs(tiny_store, named("like"), MIXTURE)
    encoder = tiny_store.encoder
    for point in made.values():
        for tree in point.trees:
            alone = encoder.start(encoder.decode(tree.trunk).removeprefix(start_of(tiny_store)))
            np.testing.assert_array_equal(tree.trunk, alone)


def start_of(store: TokenStore) -> str:
    """What a tokenizer itself puts in front of a prompt."""
    return store.encoder.decode(store.encoder.start_ids)


def test_the_last_rung_is_the_ordinary_prompt_token_for_token(tiny_store: TokenStore) -> None:
    tasks = named("like", "pairwise")
    _, made = rungs(tiny_store, tasks, MIXTURE)
    ordinary = EvaluationSet(
        tiny_store, tasks, phase=Phase.TEST, config=MIXTURE, seed=CONFIG.seed, max_targets=24
    )
    assert len(ordinary) == len(made[WHOLE].trees)
    for one, other in zip(ordinary, made[WHOLE].trees, strict=True):
        np.testing.assert_array_equal(one.trunk, other.trunk)
        for branch, same in zip(one.branches, other.branches, strict=True):
            np.testing.assert_array_equal(branch.tokens, same.tokens)
            np.testing.assert_array_equal(branch.choices, same.choices)


@pytest.mark.parametrize("which", ["tiny_store", "rich_store"])
def test_every_rung_asks_the_same_of_every_task(which: str, request: pytest.FixtureRequest) -> None:
    store: TokenStore = request.getfixturevalue(which)
    tasks = [
        task
        for task in all_tasks().values()
        if CURVE.wants(task) and applicable(task, store) is None
    ]
    trees, made = rungs(store, tasks, MIXTURE)
    whole = collect(trees, tasks)
    asked_by_item = 0
    for task in tasks:
        hashes = set()
        for point in made.values():
            now = collect(point.trees, tasks)[task.name]
            hashes.add(targets_fingerprint(store, now))
            assert len(now) == len(point.rows.get(task.name, ()))
            assert len(now) in (0, len(whole[task.name]))
            asked_by_item += bool(now)
        assert len(hashes) == 1, task.name
    assert asked_by_item >= 5 * len(made)


def test_a_record_inside_a_line_becomes_a_title_inside_a_line(rich_store: TokenStore) -> None:
    trees, made = rungs(rich_store, named("review_choice"), MIXTURE)
    decode, n = rich_store.encoder.decode, 0
    for base, tree in zip(trees, made[TITLE].trees, strict=True):
        for before, after in zip(base.branches, tree.branches, strict=True):
            item = int(rich_store.event_item_E[before.subject])
            record, title = (text(rich_store, kind, item) for kind in ("inline/plain", "title"))
            whole, bare = decode(before.tokens), decode(after.tokens)
            assert f"{record} | rated" in whole
            assert bare == whole.replace(record, title.removesuffix("\n"))
            n += 1
    assert n > 5


def test_titles_stand_for_the_events_that_the_whole_prompt_shows(tiny_store: TokenStore) -> None:
    tight = replace(MIXTURE, max_trunk_tokens=110)
    _, made = rungs(tiny_store, named("like"), tight)
    decode = tiny_store.encoder.decode
    fewer = 0
    for titles, whole in zip(made[TITLES].trees, made[WHOLE].trees, strict=True):
        lines = [decode(t.trunk).partition("History:\n")[2].splitlines() for t in (titles, whole)]
        assert len(lines[0]) == len(lines[1])
        for short, full in zip(*lines, strict=True):
            assert short.removeprefix("| ") in full
        fewer += len(lines[1]) < titles.moment.cut - titles.moment.start
    assert fewer


@pytest.fixture(scope="module")
def bare_store(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Films of a title and nothing else, users of whom nothing is known."""
    folder = tmp_path_factory.mktemp("bare")
    tables = tiny_tables()
    tables |= {"item_fields": (), "user_fields": (), "name": "bare"}
    tables["items"] = tables["items"].select(["item_id", "title"])
    tables["users"] = tables["users"].select(["user_id"])
    corpus = write_corpus(folder / "corpus", **tables)
    return compile_store(corpus, tiny_store.tokenizer_folder, folder / "store")


def test_rungs_that_a_corpus_cannot_have_are_left_out_and_said(
    tiny_store: TokenStore, bare_store: TokenStore
) -> None:
    def load() -> torch.nn.Module:
        shape = ModelShape(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
        return build_backbone(shape, vocab_size=tiny_store.card.vocab_size, seed=1).eval()

    results = trace(
        Contestant(name="seed 1", load=load),
        CURVE,
        [tiny_store, bare_store],
        named("like", "next_item_title"),
        MIXTURE,
        DistributedContext(),
        CONFIG,
    )
    xs = {corpus: [r.x for r in results.rows if r.corpus == corpus] for corpus in ("tiny", "bare")}
    assert xs == {"tiny": [TITLE, RECORD, PROFILE, TITLES, WHOLE], "bare": [TITLE, TITLES, WHOLE]}
    assert results.curve is not None
    assert results.curve.left_out == {
        "+ records of bare": "its items have titles and no other fields",
        "+ profile of bare": "its users have no profile fields",
    }
    for row in results.rows:
        is_first = row.x == TITLE
        assert (row.difference_to_first is None) == (row.difference_to_previous is None) == is_first
    for corpus in xs:
        rows = [row for row in results.rows if row.corpus == corpus]
        assert len({row.targets_hash for row in rows}) == 1
        for before, after in pairwise(rows):
            assert before.value is not None
            assert after.value is not None
            assert after.difference_to_previous is not None
            gain = after.value - before.value
            assert after.difference_to_previous.value == pytest.approx(gain)


def test_it_is_said_how_many_have_what_a_rung_adds(tiny_store: TokenStore) -> None:
    ground = Ground.of(tiny_store, named("like"), MIXTURE)
    tree = next(t for t in exam(tiny_store, ground.tasks, MIXTURE) if len(t.trunk) > 60)
    assert all(CURVE.reached(ground, x, tree) for x in CURVE.xs(ground))
    without = replace(tree, moment=replace(tree.moment, start=tree.moment.cut))
    reached = {x: CURVE.reached(ground, x, without) for x in CURVE.xs(ground)}
    assert reached == {TITLE: True, RECORD: True, PROFILE: True, TITLES: False, WHOLE: False}
