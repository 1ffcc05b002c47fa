import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import MicroBatch, pack
from data_pipeline.store import TokenStore
from data_pipeline.tree import Branch, Moment, Question, Tree, TrunkLabels

N_TASKS = 3
MOMENT = Moment(user=0, start=0, cut=0, stop=0, time=0)


def a_branch(rng: np.random.Generator, trunk_tokens: int) -> Branch:
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    n = max(n, m)
    return Branch(
        task=int(rng.integers(N_TASKS)),
        subject=0,
        phrasing=0,
        tokens=rng.integers(0, 99, n).astype(np.int32),
        answer=rng.integers(0, 99, m).astype(np.int32),
        choices=rng.integers(0, 99, int(rng.integers(0, 4))).astype(np.int32),
        question=Question(label=0),
        weight=float(rng.integers(1, 4)),
        attach=int(rng.integers(0, trunk_tokens + 1)) if rng.random() < 0.5 else None,
    )


def a_tree(rng: np.random.Generator) -> Tree:
    trunk = rng.integers(0, 99, int(rng.integers(0, 12))).astype(np.int32)
    n = int(rng.integers(0, len(trunk))) if len(trunk) > 1 else 0
    positions = np.sort(rng.permutation(max(0, len(trunk) - 1))[:n]).astype(np.int64)
    labels = TrunkLabels(
        positions=positions,
        tokens=trunk[positions + 1].astype(np.int64),
        weights=np.full(len(positions), 0.5, np.float32),
        targets=len(positions),
    )
    branches = tuple(a_branch(rng, len(trunk)) for _ in range(int(rng.integers(0, 5))))
    return Tree(corpus=0, moment=MOMENT, trunk=trunk, branches=branches, trunk_labels=labels)


def slow_pack(trees: list[Tree]) -> dict[str, list[float]]:
    """The same, one token at a time."""
    out: dict[str, list[float]] = {
        name: []
        for name in ("tokens", "positions", "attach", "label_at", "label", "weight", "task")
    }
    history: list[tuple[float, ...]] = []
    for tree in trees:
        base = len(out["tokens"])
        out["tokens"] += tree.trunk.tolist()
        out["positions"] += list(range(len(tree.trunk)))
        for position, token, weight in zip(
            tree.trunk_labels.positions,
            tree.trunk_labels.tokens,
            tree.trunk_labels.weights,
            strict=True,
        ):
            history.append((base + position, token, weight, N_TASKS))
        for branch in tree.branches:
            out["tokens"] += branch.tokens.tolist()
            seen = len(tree.trunk) if branch.attach is None else branch.attach
            out["attach"].append(seen)
            out["positions"] += [seen + i for i in range(len(branch.tokens))]
            m = len(branch.answer)
            for i, token in enumerate(branch.answer.tolist()):
                out["label_at"].append(len(out["tokens"]) - m + i)
                out["label"].append(token)
                out["weight"].append(branch.weight / m)
                out["task"].append(branch.task)
    for at, token, weight, task in history:
        out["label_at"].append(at)
        out["label"].append(token)
        out["weight"].append(weight)
        out["task"].append(task)
    return out


def labels_of(batch: MicroBatch) -> list[tuple[float, ...]]:
    return sorted(
        zip(
            batch.label_columns_M.tolist(),
            batch.label_tokens_M.tolist(),
            batch.label_weights_M.tolist(),
            batch.tokens_T[batch.label_positions_M].tolist(),
            batch.positions_T[batch.label_positions_M].tolist(),
            strict=True,
        )
    )


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 5))
def test_pack_equals_the_slow_reference(seed: int, n: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    trees = [a_tree(rng) for _ in range(n)]
    batch, slow = pack(trees, N_TASKS), slow_pack(trees)
    assert batch.tokens_T.tolist() == slow["tokens"]
    assert batch.positions_T.tolist() == slow["positions"]
    assert batch.attach_lengths.tolist() == slow["attach"]
    assert batch.label_positions_M.tolist() == slow["label_at"]
    assert batch.label_tokens_M.tolist() == slow["label"]
    assert batch.label_columns_M.tolist() == slow["task"]
    assert batch.label_weights_M.tolist() == pytest.approx(slow["weight"])
    assert batch.n_tokens == sum(batch.trunk_lengths) + sum(batch.branch_lengths)
    assert batch.branch_counts.tolist() == [len(tree.branches) for tree in trees]
    branches = [branch for tree in trees for branch in tree.branches]
    assert batch.targets_K[:-1].sum() == len(branches)
    for b, branch in enumerate(branches):
        options = batch.choice_tokens[batch.choice_offsets[b] : batch.choice_offsets[b + 1]]
        assert options.tolist() == branch.choices.tolist()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_both_layouts_ask_for_the_same_labels_at_the_same_positions(seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    trees = [a_tree(rng) for _ in range(3)]
    packed, single = pack(trees, N_TASKS), pack(trees, N_TASKS, layout="L0")
    assert labels_of(packed) == labels_of(single)
    assert packed.n_targets == single.n_targets
    assert packed.targets_K.tolist() == single.targets_K.tolist()
    assert (single.branch_counts <= 1).all()
    with_branch = single.trunk_lengths[single.branch_counts == 1]
    assert single.attach_lengths.tolist() == with_branch.tolist() == packed.attach_lengths.tolist()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_each_prompt_of_its_own_is_what_its_branch_sees(seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=[seed, 3]))
    tree = a_tree(rng)
    single = pack([tree], N_TASKS, layout="L0")
    lengths = np.zeros(len(single.trunk_lengths), np.int64)
    lengths[single.branch_counts == 1] = single.branch_lengths
    prompts = np.split(single.tokens_T, np.cumsum(single.trunk_lengths + lengths)[:-1])
    made = [p.tolist() for p, n in zip(prompts, single.branch_counts, strict=True) if n]
    assert made == [[*tree.trunk[: b.attach], *b.tokens] for b in tree.branches]


def test_one_tree_is_far_shorter_than_its_prompts(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], MixtureConfig(targets_per_tree=16), seed=0)
    trees = [mixture[i] for i in range(20)]
    tree_tokens = pack(trees, len(mixture.tasks)).n_tokens
    prompt_tokens = pack(trees, len(mixture.tasks), layout="L0").n_tokens
    assert prompt_tokens > 3 * tree_tokens
