"""The scoring benchmark's engines answer the same questions with the same scores."""

import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.store import TokenStore
from data_pipeline.tree import Branch
from launch.bench import peer, score, workload
from launch.bench.score import Candidates, Engines, PairScorer, bench_score
from launch.bench.workload import made_tree
from modeling.backbone import build_backbone
from modeling.scoring import Branch as AskedBranch
from modeling.scoring import Request, Scorer
from modeling.shape import ModelShape

VOCABULARY = 200
TINY = ModelShape(
    architecture="llama",
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,  # so that scores differ
)

# Stands in for llama.cpp: a second for a trunk, a tenth of one for a branch.
LLAMACPP = """
import json, sys
settings = json.load(open(sys.argv[1]))
print(json.dumps({"branches": len(settings["branches"])}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    seconds = asked["cold"] * 1.0 + asked["branches"] * 0.1
    print(json.dumps({"seconds": seconds, "scores": [0.25] * asked["branches"]}), flush=True)
"""


def branches(n: int) -> tuple[Branch, ...]:
    """Branches of different lengths, each with two choices."""
    made = []
    for index in range(n):
        [branch] = made_tree(1, 1, 3 + index % 4, VOCABULARY, seed=index).branches
        choices = np.array([index % 50, 60 + index], np.int32)
        made.append(
            Branch(
                task=0,
                subject=index,
                phrasing=0,
                tokens=branch.tokens,
                answer=branch.answer,
                choices=choices,
                question=branch.question,
            )
        )
    return tuple(made)


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> Candidates:
    tree = made_tree(40, 1, 5, VOCABULARY)
    found = Candidates(tree.trunk, branches(20))
    monkeypatch.setattr(score, "candidate_branches", lambda _, task, n: (tree, found.branches[:n]))
    monkeypatch.setitem(workload.SHAPES, "5m", TINY)
    return found


def test_pairs_and_our_engine_agree(candidates: Candidates) -> None:
    model = build_backbone(TINY, vocab_size=VOCABULARY, seed=0).eval()
    engines = Engines(model, candidates, None)
    cold, warm = engines.ours(20, cold=True), engines.ours(20, cold=False)
    pairs = engines.pairs.score(candidates, 20)  # batches of eight: two full and one of four
    assert len(set(np.round(cold, 6))) == 20
    assert cold == pytest.approx(warm, abs=1e-6)
    assert cold == pytest.approx(pairs, abs=1e-6)
    one_each = Scorer(model, packed=False).score(
        [Request(candidates.trunk, [AskedBranch(b.tokens, b.choices) for b in candidates.branches])]
    )[0]
    assert pairs == pytest.approx([float(s.probabilities_C[0]) for s in one_each], abs=1e-6)


def test_pairs_are_stock_attention_on_the_same_weights() -> None:
    model = build_backbone(TINY, vocab_size=VOCABULARY, seed=0).eval()
    stock = PairScorer(model).model
    assert stock.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "brewhouse_tree"
    ours = dict(model.named_parameters())
    for name, parameter in stock.named_parameters():
        assert parameter.data_ptr() == ours[name].data_ptr()


def test_cold_reads_the_trunk_and_warm_does_not(candidates: Candidates) -> None:
    model = build_backbone(TINY, vocab_size=VOCABULARY, seed=0).eval()
    engines = Engines(model, candidates, None)
    cases = engines.cases(4)
    assert cases.keys() == {"cold", "warm", "pairs"}
    statistics = engines.scorer.cache.statistics
    cases["cold"]()
    assert (statistics.hits, statistics.misses) == (0, 1)
    cases["warm"]()
    assert (statistics.hits, statistics.misses) == (1, 1)
    cases["cold"]()
    assert (statistics.hits, statistics.misses) == (1, 2)


def test_ratios_stand_beside_what_counting_says(
    tiny_store: TokenStore, candidates: Candidates
) -> None:
    metrics = bench_score(tiny_store, size="5m", counts=(1, 12), rounds=1)
    own = sum(len(branch.tokens) for branch in candidates.branches[:12])
    assert metrics["score.packed_over_pairs_counted_k12"] == (12 * 40 + own) / (40 + own)
    assert metrics["score.warm_over_cold_counted_k12"] == (40 + own) / own
    assert metrics["score.packed_over_pairs_counted_k1"] == 1.0
    assert metrics["score.warm_over_cold"] == metrics["score.warm_over_cold_k1"]
    assert metrics["score.max_difference_pairs"] < 1e-6
    for engine in ("cold", "warm", "pairs"):
        assert metrics[f"score.{engine}_per_s_k12"] > 0


def test_llamacpp_is_asked_for_the_same_candidates(
    tiny_store: TokenStore,
    candidates: Candidates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer, "SCRIPTS", tmp_path)
    (tmp_path / "llamacpp_scoring.py").write_text(LLAMACPP)
    monkeypatch.setattr(score, "_check_carried", lambda *_: None)
    monkeypatch.setattr(score, "packaged_gguf", lambda: tmp_path / "no.gguf")
    monkeypatch.setattr("launch.bench.gguf_f32.write_f32", lambda source, target: None)
    notes: list[str] = []
    metrics = bench_score(
        tiny_store,
        size="5m",
        counts=(8, 20),
        rounds=1,
        llamacpp_python=Path(sys.executable),
        note=notes.append,
    )
    assert "llama.cpp says: {'branches': 20}" in notes
    assert metrics["score.llamacpp_cold_per_s_k8"] == pytest.approx(8 / 1.8)
    assert metrics["score.llamacpp_warm_per_s_k8"] == pytest.approx(8 / 0.8)
    assert metrics["score.over_llamacpp_k8"] == pytest.approx(
        metrics["score.cold_per_s_k8"] / (8 / 1.8)
    )
    assert "score.llamacpp_cold_per_s_k20" not in metrics  # not among the counts it is asked for
    ours = Engines(workload.random_model("5m", tiny_store.card.vocab_size).eval(), candidates, None)
    expected = max(abs(p - 0.25) for p in ours.ours(8, cold=True))
    assert metrics["score.max_difference_llamacpp"] == pytest.approx(expected, abs=1e-6)


def test_llamacpp_without_its_weights_is_refused(
    tiny_store: TokenStore, candidates: Candidates
) -> None:
    with pytest.raises(ValueError, match="install it"):
        bench_score(tiny_store, size="5m", counts=(1,), llamacpp_python=Path(sys.executable))
