"""The model's answers equal one prompt per target and a brute-force ranking of the catalog."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks
from data_pipeline.tree import Tree
from modeling.backbone import build_backbone
from modeling.continuations import score_continuations
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.predictions import _Answer, _batches, _merged, predict
from train.evaluation.titles import place_of_title

SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
CONFIG = MixtureConfig(targets_per_tree=8, history_events=6)
NAMES = ("like", "rating", "next_item_choice", "similar", "next_item_title")


@pytest.fixture(scope="module")
def model(tiny_store: TokenStore) -> torch.nn.Module:
    """Random weights, but sharp: titles differ by many nats, as after training."""
    model = build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [all_tasks()[name] for name in NAMES]


@pytest.fixture(scope="module")
def trees(tiny_store: TokenStore, tasks: list[Task]) -> list[Tree]:
    asked = EvaluationSet(
        tiny_store, tasks, phase=Phase.TEST, config=CONFIG, seed=0, max_targets=14
    )
    return list(asked)


def test_probabilities_are_those_of_one_prompt_per_target(
    tiny_store: TokenStore, model: torch.nn.Module, tasks: list[Task], trees: list[Tree]
) -> None:
    scores = predict(model, trees, tasks, tiny_store, DistributedContext(), max_tokens=700)
    place = dict.fromkeys(NAMES, 0)
    for tree in trees:
        for branch in tree.branches:
            name = tasks[branch.task].name
            row, place[name] = place[name], place[name] + 1
            if not len(branch.choices):
                continue
            prompt = torch.tensor(np.concatenate([tree.trunk, branch.tokens]).astype(np.int64))
            with torch.no_grad():
                p_V = model(prompt[None]).logits[0, -1].double().softmax(-1).numpy()
            of_choices = p_V[branch.choices]
            got = scores[name].probabilities_NK[row, : len(branch.choices)]
            np.testing.assert_allclose(got, of_choices / of_choices.sum(), atol=1e-5)
            assert scores[name].label_mass_N[row] == pytest.approx(of_choices.sum(), abs=1e-5)
            assert scores[name].labels_N[row] == branch.question.label
    assert place == {name: len(scores[name]) for name in NAMES}


def test_titles_are_ranked_among_the_whole_catalog_without_the_history(
    tiny_store: TokenStore, model: torch.nn.Module, tasks: list[Task], trees: list[Tree]
) -> None:
    scores = predict(model, trees, tasks, tiny_store, DistributedContext(), max_tokens=700)
    got = scores["next_item_title"]
    row = 0
    for tree in trees:
        for branch in tree.branches:
            if len(branch.choices):
                continue
            first = tiny_store.user_offsets_U1[tree.moment.user]
            seen = set(tiny_store.event_item_E[first : tree.moment.cut].tolist())
            catalog = [i for i in tiny_store.statistics.known_items.tolist() if i not in seen]
            prompt = branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]
            score_N = score_continuations(
                model,
                np.concatenate([tree.trunk, prompt]),
                [tiny_store.title_tokens(item) for item in catalog],
            )
            right = score_N[catalog.index(branch.question.label)]
            assert got.better_N[row] == (score_N > right).sum()
            assert got.tied_N[row] == (score_N == right).sum() - 1
            assert got.ranked_N[row] == len(catalog)
            row += 1
    assert row == len(got) > 5
    assert len(set(got.better_N.tolist())) > 3  # not all at one end, where any bound would do


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_pruned_places_equal_those_of_all_scores(sharpness: float) -> None:
    rng = np.random.default_rng(8)
    titles = [(*rng.integers(0, 6, rng.integers(2, 12)).tolist(), 9) for _ in range(200)]
    titles[17] = titles[3]  # two items of one title
    step = np.log(rng.dirichlet(np.full(10, 1.0), size=10))
    step = sharpness * step - np.log(np.exp(sharpness * step).sum(1, keepdims=True))
    scored = []

    def score(texts: Sequence[tuple[int, ...]]) -> np.ndarray:
        scored.extend(texts)
        return np.array([sum(step[a, b] for a, b in pairwise((0, *text))) for text in texts])

    score_N = score(titles)
    for right in range(0, 200, 7):
        better, tied = place_of_title(score, titles, right)
        assert better == (score_N > score_N[right]).sum()
        assert tied == (score_N == score_N[right]).sum() - 1
    scored.clear()  # and where the right title is a likely one, few others are scored in full
    best = int(score_N.argmax())
    place_of_title(score, titles, best)
    assert sharpness < 4.0 or sum(map(len, scored)) < 0.5 * sum(map(len, titles))


def split(
    model: torch.nn.Module, trees: Sequence[Tree], tasks: list[Task], store: TokenStore, size: int
) -> list[dict[str, np.ndarray]]:
    """What `size` ranks would get, one after the other, with their gathering played back."""
    parts: list[object] = []

    class Pretend(DistributedContext):
        def all_gather_object(self, value: object) -> list[object]:  # type: ignore[override]
            parts.append(value)
            if len(parts) < self.world_size:
                raise StopIteration
            return list(parts)

    for rank in range(size):
        context = Pretend(rank=rank, world_size=size)
        try:
            scores = predict(model, trees, tasks, store, context, max_tokens=700)
        except StopIteration:
            continue
    return [
        {"p": s.probabilities_NK, "better": s.better_N, "mass": s.label_mass_N}
        for s in scores.values()
    ]


def test_any_number_of_ranks_gives_the_same_bits(
    tiny_store: TokenStore, model: torch.nn.Module, tasks: list[Task], trees: list[Tree]
) -> None:
    one, three = (split(model, trees, tasks, tiny_store, size) for size in (1, 3))
    for a, b in zip(one, three, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_trunk_is_read_once_for_all_trees_and_titles_behind_it(
    tiny_store: TokenStore, model: torch.nn.Module, tasks: list[Task], trees: list[Tree]
) -> None:
    """One tree of one trunk, or one for each of its branches: the same scores, the same work."""
    tree = max(trees, key=lambda tree: len(tree.branches))
    chosen = replace(tree, branches=tuple(b for b in tree.branches if len(b.choices)))
    titles = [replace(tree, branches=(b,)) for b in tree.branches if not len(b.choices)]
    assert len(chosen.branches) > 2
    assert titles
    parts = [replace(chosen, branches=(branch,)) for branch in chosen.branches]
    read: list[int] = []

    def count(module: object, args: object, kwargs: dict[str, Any], output: object) -> None:
        layout = kwargs.get("tree_layout")
        if layout is not None:
            read.append(sum(layout.trunk_lengths) - sum(layout.cached_lengths or ()))

    hook = model.model.register_forward_hook(count, with_kwargs=True)
    context = DistributedContext()
    scores, trunk_tokens = [], []
    both = replace(tree, branches=(*chosen.branches, *titles[0].branches))
    for asked in ([chosen], parts, [both], [chosen, titles[0]]):
        read.clear()
        scores.append(predict(model, asked, tasks, tiny_store, context, max_tokens=700))
        trunk_tokens.append([n for n in read if n > 1])  # 1 tries the model, or goes on from it
    hook.remove()
    whole, apart, *_ = scores
    for name in NAMES:
        np.testing.assert_array_equal(whole[name].probabilities_NK, apart[name].probabilities_NK)
    title = titles[0].branches[0]
    prompt = len(tree.trunk) + len(title.tokens) - len(title.answer) + 1
    assert trunk_tokens == [
        [len(tree.trunk)],
        [len(tree.trunk)],
        [len(tree.trunk), prompt - len(tree.trunk)],
        [len(tree.trunk), prompt],  # micro-batches know nothing of each other
    ]


def test_every_tree_is_in_one_batch_within_the_limit(trees: list[Tree]) -> None:
    batches = list(_batches(trees, 700))
    assert [n for batch in batches for n in batch] == list(range(len(trees)))
    for batch in batches:
        trunks = {trees[n].trunk.tobytes(): len(trees[n].trunk) for n in batch}
        branches = [branch for n in batch for branch in trees[n].branches]
        tokens = sum(trunks.values()) + sum(len(branch.tokens) for branch in branches)
        assert len(batch) == 1 or tokens <= 700


def test_a_target_scored_twice_or_never_is_an_error(trees: list[Tree]) -> None:
    full = {(n, b): _Answer() for n, tree in enumerate(trees) for b in range(len(tree.branches))}
    assert len(_merged([full, {}], trees)) == len(full)
    with pytest.raises(RuntimeError, match="1 targets were scored twice"):
        _merged([full, {(0, 0): _Answer()}], trees)
    full.pop((0, 0))
    with pytest.raises(RuntimeError, match=f"{len(full)} of {len(full) + 1} targets were scored"):
        _merged([full], trees)


def test_a_broken_model_is_an_error_and_no_row(
    tiny_store: TokenStore, tasks: list[Task], trees: list[Tree]
) -> None:
    broken = build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=5).eval()
    with torch.no_grad():
        broken.get_input_embeddings().weight[3] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        predict(broken, trees, tasks, tiny_store, DistributedContext(), max_tokens=700)
