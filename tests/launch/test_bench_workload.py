"""The speed benchmarks run what they say: shapes, trees of one size, the same targets."""

import ast
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from launch.bench import workload
from launch.bench.timing import in_turns, median_ratio
from launch.bench.workload import (
    PACKAGE_VOCABULARY,
    SHAPES,
    benchmark_trees,
    candidate_branches,
    made_tree,
    prompts_of,
    spread,
)

BENCH = Path(workload.__file__).parent


def test_the_shapes_are_what_they_are_called() -> None:
    assert SHAPES["135m"].n_parameters(PACKAGE_VOCABULARY) == 134_515_008  # SmolLM2-135M's card
    assert SHAPES["5m"].n_parameters(1) == pytest.approx(5e6, rel=0.05)


def test_trees_of_one_size_are_found_or_the_store_is_refused(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "SHORTEST_TRUNK", 601)
    with pytest.raises(DataError, match="601 to 600 tokens of trunk and 32 targets"):
        benchmark_trees(tiny_store, 1)
    monkeypatch.setattr(workload, "SHORTEST_TRUNK", 30)
    monkeypatch.setattr(workload, "TARGETS", 4)
    settings = MixtureConfig(targets_per_tree=4, history_events=8, max_trunk_tokens=60)
    monkeypatch.setattr(workload, "MIXTURE", settings)
    work = benchmark_trees(tiny_store, 3)
    assert len(work.trees) == 3
    for tree in work.trees:
        assert 30 <= len(tree.trunk) <= 60
        assert len(tree.branches) == 4


def test_prompts_hold_the_tokens_and_labels_of_one_prompt_per_target() -> None:
    tree = made_tree(20, 5, 7, vocab_size=100)
    singles = pack([tree], 1, layout="L0")
    prompts = prompts_of(tree)
    fed = np.concatenate([prompt.tokens_T[:-1] for prompt in prompts])
    assert fed.tolist() == singles.tokens_T.tolist()
    assert [p.tokens_T[-1] for p in prompts] == singles.label_tokens_M.tolist()
    assert all(prompt.answer_length == 1 for prompt in prompts)


def test_a_sample_of_the_targets_has_their_mean_length() -> None:
    tree = made_tree(20, 32, 40, vocab_size=100)
    lengths = [len(branch.tokens) for branch in spread(tree, 4).branches]
    assert lengths == [40] * 4
    branches = [made_tree(1, 1, n, 100).branches[0] for n in range(1, 34)]
    tree = type(tree)(corpus=0, moment=tree.moment, trunk=tree.trunk, branches=tuple(branches))
    assert [len(branch.tokens) for branch in spread(tree, 3).branches] == [9, 17, 25]


def test_candidates_are_asked_about_with_one_task(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = made_tree(20, 1, 5, 100)
    monkeypatch.setattr(
        workload, "benchmark_trees", lambda *_, **__: workload.Workload((tree,), 1, 100)
    )
    found, branches = candidate_branches(tiny_store, "like", 70)
    assert found is tree
    assert len(branches) == 70
    texts = [tiny_store.encoder.decode(branch.tokens) for branch in branches]
    assert len(set(texts)) > 35  # many items
    assert {len(branch.choices) for branch in branches} == {2}  # yes or no


def test_cases_take_turns_after_one_warm_up_each() -> None:
    order: list[str] = []

    def case(name: str, seconds: float) -> float:
        order.append(name)
        return seconds * len(order)

    cases = {"a": lambda: case("a", 1.0), "b": lambda: case("b", 2.0)}
    seconds = in_turns(cases, 2)
    assert "".join(order) == "ab" + "abab"
    assert seconds == {"a": [3.0, 5.0], "b": [8.0, 12.0]}
    order.clear()
    in_turns(cases, 1, warm_up=False)
    assert "".join(order) == "ab"


def test_ratios_are_taken_within_a_round() -> None:
    # A machine that became ten times slower in the last round does not move the ratio.
    assert median_ratio([2.0, 2.2, 20.0], [1.0, 1.1, 10.0]) == 2.0


@pytest.mark.parametrize("script", ["trl_packing.py", "llamacpp_scoring.py"])
def test_scripts_of_other_environments_import_nothing_of_ours(script: str) -> None:
    tree = ast.parse((BENCH / script).read_text(encoding="utf-8"))
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    tops = {name.partition(".")[0] for name in imported}
    assert not tops & {"launch", "train", "modeling", "data_pipeline"}
