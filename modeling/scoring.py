"""The scoring engine: many questions about many users, each user's trunk encoded once.

    scorer = Scorer(model, cache_bytes=2 << 30)
    [scores] = scorer.score([Request(trunk, [Branch(tokens, choices), ...])])

Branches of several requests share a pass, and trunks stay in a cache: a trunk that comes again is
not read again, one that has grown is read from where it grew. Scores are those of one prompt per
branch, up to rounding.

Legend: P tokens of a trunk, C choices of a branch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modeling.label_scores import NotFiniteError, checked_fp32, label_logits
from modeling.scoring_pass import OpenTrunk, Row, Score, Tokens, scores_of
from modeling.tree_layout import TreeLayout
from modeling.trunk_cache import TrunkCache
from modeling.trunk_encoding import encode_trunk
from modeling.trunk_states import TrunkStates

__all__ = ["Branch", "Ranked", "Request", "Score", "Scorer", "ranked"]

Ids = Sequence[int] | NDArray[np.integer]

# Logits of one pass, in numbers: 256 MB of fp32. A pass takes fewer branches of a large vocabulary.
LOGITS_OF_A_PASS = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Branch:
    """One question behind a trunk; its answer is one token of several."""

    tokens: Ids
    """All that stands behind the trunk, up to the answer."""
    choices: Ids
    """The tokens that may be the answer."""
    name: str = ""
    """For error messages, such as "like, item 50"."""


@dataclass(frozen=True, slots=True)
class Request:
    """Questions about one user at one moment."""

    trunk: Ids
    branches: Iterable[Branch] = field(repr=False)
    """Read one after the other, as they are needed."""
    name: str = ""
    """For error messages, such as "user 7"."""


class Ranked(NamedTuple):
    """A branch in its place."""

    branch: int
    """Which of the scores."""
    probability: float
    tied: int
    """How many others have exactly this probability: their order among each other says nothing."""


class _Asked(NamedTuple):
    """A checked branch and where it comes from."""

    key: tuple[int, int]
    """(request, branch)"""
    name: str
    tokens: Tokens
    choices: Tokens


class Scorer:
    """Answers requests with a model, at bounded memory whatever their length.

    Beside the weights it holds `cache_bytes` of trunks, and for a pass the activations of
    `max_tokens` tokens and the states of the trunks in it. Not safe for several threads at once.

    Attributes:
        cache: the trunks that are kept; `cache.statistics` counts hits and misses.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        cache_bytes: int = 1 << 30,
        max_tokens: int = 8192,
        packed: bool = True,
    ) -> None:
        """Try the model on three tokens, and hash its weights for the cache.

        Args:
            model: a causal LM from `modeling.backbone`, in eval mode. When it is trained on or its
                adapter is switched, the cache is emptied (see `modeling.model_hash`).
            cache_bytes: of keys and values kept between requests; 0 keeps none.
            max_tokens: tokens of one pass.
            packed: False reads one prompt per branch with the model's own attention: slow, for
                models that cannot follow trees, and to compare with.

        Raises:
            ValueError: the model cannot follow trees, has no fp32 head, or is in training mode.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: a pass takes one token at least")
        self.model = model
        self.max_tokens = max_tokens
        self.packed = packed
        causal: Any = model
        self._n_vocabulary = int(causal.get_input_embeddings().weight.shape[0])
        self._longest: int | None = getattr(causal.config, "max_position_embeddings", None)
        self._max_branches = max(1, LOGITS_OF_A_PASS // self._n_vocabulary)
        self._check_mode()
        self._try_model()
        self.cache = TrunkCache(model, cache_bytes if packed else 0)

    def score(self, requests: Sequence[Request]) -> list[list[Score]]:
        """Answer all branches of all requests; requests with one trunk share its tree.

        Raises:
            ValueError: a request that cannot be answered, by name: a branch without tokens or
                choices, one that does not fit into a pass, tokens outside of the vocabulary, more
                tokens than the model has positions, logits that are not finite.
        """
        trunks = [self._trunk(n, request) for n, request in enumerate(requests)]
        alike: dict[bytes, list[int]] = {}
        for n, trunk_P in enumerate(trunks):
            alike.setdefault(trunk_P.tobytes(), []).append(n)
        scores: list[list[Score]] = [[] for _ in requests]
        asked = (
            (trunks[group[0]], (one for n in group for one in self._asked(n, requests[n])))
            for group in alike.values()
        )
        for (n, _), score in self._answers(asked):
            scores[n].append(score)
        return scores

    def stream(self, request: Request) -> Iterator[Score]:
        """Answer a request's branches in their order, each as soon as its pass is done.

        Branches are taken from their iterator as passes need them: at most those of one pass, and
        one more, are waiting at any time.

        Raises:
            ValueError: as `score`, when the branch is reached.
        """
        asked = [(self._trunk(0, request), self._asked(0, request))]
        return (score for _, score in self._answers(asked))

    def _answers(
        self, asked: Iterable[tuple[Tokens, Iterable[_Asked]]]
    ) -> Iterator[tuple[tuple[int, int], Score]]:
        self._check_mode()
        if not self.packed:
            for trunk_P, branches in asked:
                for one in branches:
                    yield one.key, self._one_prompt(trunk_P, one)
            return
        self.cache.follow_model()
        row, waiting = self._new_row(), list[_Asked]()
        for trunk_P, branches in asked:
            trunk = OpenTrunk(trunk_P, self.cache.find(trunk_P))
            for one in branches:
                if not row.fits(trunk, one.tokens):
                    yield from self._finish(row, waiting)
                    row, waiting = self._new_row(), []
                    self._make_fit(trunk, one)
                row.add(trunk, one.tokens, one.choices)
                waiting.append(one)
        yield from self._finish(row, waiting)

    def _new_row(self) -> Row:
        return Row(self.max_tokens, self._max_branches)

    def _make_fit(self, trunk: OpenTrunk, one: _Asked) -> None:
        """Read a trunk in passes of its own where one pass cannot take it with its branch."""
        if len(one.tokens) > self.max_tokens:
            raise ValueError(
                f"{one.name} has {len(one.tokens)} tokens, and a pass takes max_tokens="
                f"{self.max_tokens}: raise max_tokens, or shorten the question"
            )
        rest = len(trunk.tokens_P) - trunk.held
        if rest + len(one.tokens) > self.max_tokens:
            tokens_P = torch.from_numpy(trunk.tokens_P).to(self._device)
            encode_trunk(
                self.model, tokens_P, trunk.states, length=len(tokens_P), max_tokens=self.max_tokens
            )
            self._keep(trunk)

    def _finish(self, row: Row, waiting: list[_Asked]) -> Iterator[tuple[tuple[int, int], Score]]:
        if not waiting:
            return
        try:
            scores = row.scores(self.model, self._device)
        except NotFiniteError as error:
            raise _not_finite(waiting[error.position]) from error
        for trunk in row.trunks:
            self._keep(trunk)
        for one, score in zip(waiting, scores, strict=True):
            yield one.key, score

    def _keep(self, trunk: OpenTrunk) -> None:
        """States that have just been completed stop recording and go into the cache."""
        if trunk.states.recording:
            trunk.states.recording = False
            self.cache.keep(trunk.tokens_P, trunk.states)

    @torch.no_grad()
    def _one_prompt(self, trunk_P: Tokens, one: _Asked) -> Score:
        prompt = torch.from_numpy(np.concatenate([trunk_P, one.tokens])).to(self._device)
        output = self.model(input_ids=prompt[None], use_cache=False, logits_to_keep=1)
        try:
            [score] = scores_of(output.logits[0], [one.choices])
        except NotFiniteError as error:
            raise _not_finite(one) from error
        return score

    def _trunk(self, n: int, request: Request) -> Tokens:
        return self._tokens(request.trunk, f"the trunk of {request.name or f'request {n}'}")

    def _asked(self, n: int, request: Request) -> Iterator[_Asked]:
        """A request's branches, checked one by one."""
        for place, branch in enumerate(request.branches):
            name = f"{branch.name or f'branch {place}'} of {request.name or f'request {n}'}"
            tokens = self._tokens(branch.tokens, name)
            choices = self._tokens(branch.choices, f"the choices of {name}")
            if not len(tokens) or not len(choices):
                raise ValueError(
                    f"{name} has {len(tokens)} tokens and {len(choices)} choices: one of each is "
                    f"the least, since an answer is predicted at a token of its branch"
                )
            n_prompt = len(request.trunk) + len(tokens)
            if self._longest is not None and n_prompt > self._longest:
                raise ValueError(
                    f"{name} makes a prompt of {n_prompt} tokens ({len(request.trunk)} of them in "
                    f"the trunk), and the model has {self._longest} positions: drop the oldest "
                    f"events of the history"
                )
            yield _Asked((n, place), name, tokens, choices)

    def _tokens(self, ids: Ids, what: str) -> Tokens:
        tokens = np.ascontiguousarray(ids, np.int64)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._n_vocabulary:
            raise ValueError(
                f"token {tokens[(tokens < 0) | (tokens >= self._n_vocabulary)][0]} of {what} lies "
                f"outside of the model's vocabulary of {self._n_vocabulary}: it was made with "
                f"another tokenizer"
            )
        return tokens

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _check_mode(self) -> None:
        if self.model.training:
            raise ValueError(
                "scores of a model in training mode are random: call model.eval() first"
            )

    @torch.no_grad()
    def _try_model(self) -> None:
        """Find out now, and not in the middle of a night's scoring, what will not work."""
        layout = TreeLayout((1,), ((1, 1),))
        tokens_T = torch.zeros(3, dtype=torch.int64, device=self._device)
        stock = self.model(input_ids=tokens_T[None], use_cache=False, logits_to_keep=1)
        checked_fp32(stock.logits)
        if not self.packed:
            return
        positions_T, last_1 = (x.to(self._device) for x in (layout.positions(), torch.tensor([2])))
        try:
            label_logits(self.model, tokens_T, positions_T, layout, last_1, [TrunkStates()])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{error}. Scorer(model, packed=False) reads one prompt per branch instead: the "
                f"same scores, slowly"
            ) from error


def ranked(scores: Iterable[Score], choice: int = 0) -> list[Ranked]:
    """Branches by the probability of one of their choices, the highest first.

    Equal ones stay in the order in which they were asked, and say how many they are.
    """
    p_B = np.array([score.probabilities_C[choice] for score in scores], np.float64)
    _, inverse, counts = np.unique(p_B, return_inverse=True, return_counts=True)
    order = np.argsort(-p_B, kind="stable")
    return [Ranked(int(b), float(p_B[b]), int(counts[inverse[b]]) - 1) for b in order]


def _not_finite(one: _Asked) -> ValueError:
    return ValueError(
        f"the logits of {one.name} are not finite: the model has diverged or its weights are "
        f"broken; load an earlier checkpoint"
    )
