"""Likelihoods of texts behind one context, of any number of them at bounded memory.

Legend: T tokens of a row, P context length, N continuations, R rows of hidden states that are asked
for, D hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modeling import label_scores
from modeling.backbone import without_adapters
from modeling.label_scores import check_layout_used, label_logits, log_sum_exp
from modeling.tree_layout import TreeLayout
from modeling.trunk_cache import TrunkCache
from modeling.trunk_encoding import encode_trunk
from modeling.trunk_states import TrunkStates

# (tokens_T, layout, states of its one trunk) -> hidden_TD
Body = Callable[[torch.Tensor, TreeLayout, TrunkStates], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Feed:
    """One branch to run, and the continuations that read their probabilities from it."""

    tokens: tuple[int, ...]
    texts: list[int]


@torch.no_grad()
def score_continuations(
    model: torch.nn.Module,
    context_P: Sequence[int] | np.ndarray,
    continuations: Sequence[Sequence[int] | np.ndarray],
    *,
    max_tokens: int = 8192,
    cache: TrunkCache | None = None,
) -> np.ndarray:
    """Exact log p(continuation | context) of every continuation, float64 [N].

    The context is a trunk that is encoded once; continuations are its branches, in as many passes
    as they need. The last token of a continuation is predicted, never fed; the first is predicted
    from the context.

    Args:
        model: a causal LM from `modeling.backbone`, in eval mode.
        context_P: token ids, at least one.
        continuations: token ids of each text, at least one token each.
        max_tokens: tokens of one pass; memory grows with it and with P, not with N.
        cache: where the context, or a beginning of it, may have been kept and is kept again.

    Raises:
        ValueError: empty texts, a continuation that does not fit into `max_tokens`, a model in
            training mode or one that changes logits after its head, logits that are not finite.
    """
    context = _token_tuple(context_P, "the context")
    texts = [_token_tuple(ids, f"continuation {n}") for n, ids in enumerate(continuations)]
    if model.training:
        raise ValueError("scores of a model in training mode are random: call model.eval() first")
    body, head = _body_and_head(model)
    _check_plain_head(model, body, head, context[0])
    scores_N = np.zeros(len(texts))
    passes = list(_passes(_plan_feeds(texts), max_tokens - 1))
    if passes:
        states = _states_of(model, context, max_tokens, cache)
        for feeds in passes:
            _score_pass(body, head, (context, states), texts, feeds, scores_N)
    return scores_N


def _states_of(
    model: torch.nn.Module, context: tuple[int, ...], max_tokens: int, cache: TrunkCache | None
) -> TrunkStates:
    tokens_P = np.array(context, np.int64)
    states = cache.find(tokens_P) if cache else TrunkStates()
    if states.length < len(context):
        device = next(model.parameters()).device
        tokens = torch.from_numpy(tokens_P).to(device)
        encode_trunk(model, tokens, states, length=len(context), max_tokens=max_tokens)
        if cache:
            cache.keep(tokens_P, states)
    states.recording = False
    return states


def _token_tuple(ids: Sequence[int] | np.ndarray, what: str) -> tuple[int, ...]:
    tokens = tuple(int(token) for token in ids)
    if not tokens:
        raise ValueError(f"{what} has no token: nothing could be predicted from it or for it")
    return tokens


def _plan_feeds(texts: list[tuple[int, ...]]) -> list[_Feed]:
    """Branches that hold every text without its last token, none a prefix of another."""
    readers: dict[tuple[int, ...], list[int]] = {}
    for n, text in enumerate(texts):
        readers.setdefault(text[:-1], []).append(n)
    feeds: list[_Feed] = []
    # In reverse order a sequence comes right after those that begin with it.
    for tokens in sorted(readers, reverse=True):
        if feeds and feeds[-1].tokens[: len(tokens)] == tokens:
            feeds[-1].texts.extend(readers[tokens])
        else:
            feeds.append(_Feed(tokens, readers[tokens]))
    return feeds


def _passes(feeds: list[_Feed], room: int) -> Iterator[list[_Feed]]:
    """Feeds in groups of at most `room` tokens."""
    group: list[_Feed] = []
    used = 0
    for feed in feeds:
        if len(feed.tokens) > room:
            raise ValueError(
                f"continuation {feed.texts[0]} needs {len(feed.tokens)} tokens of a pass, and "
                f"max_tokens={room + 1} leaves room for {room}: raise max_tokens"
            )
        if used + len(feed.tokens) > room:
            yield group
            group, used = [], 0
        group.append(feed)
        used += len(feed.tokens)
    if group:
        yield group


def _score_pass(
    body: Body,
    head: torch.nn.Module,
    trunk: tuple[tuple[int, ...], TrunkStates],
    texts: list[tuple[int, ...]],
    feeds: list[_Feed],
    scores_N: np.ndarray,
) -> None:
    """Add the log probabilities of the feeds' texts to `scores_N`."""
    context, states = trunk
    branches = [feed.tokens for feed in feeds if feed.tokens]
    # The last token of the context is fed again: first tokens are predicted from its hidden state.
    lengths = (tuple(map(len, branches)),)
    layout = TreeLayout((len(context),), lengths, cached_lengths=(len(context) - 1,))
    tokens_T = torch.tensor([context[-1], *(token for branch in branches for token in branch)])
    rows: list[int] = []
    labels: list[int] = []
    readers: list[int] = []
    start = 1
    for feed in feeds:
        for n in feed.texts:
            text = texts[n]
            rows += [0, *range(start, start + len(text) - 1)]
            labels += text
            readers += [n] * len(text)
        start += len(feed.tokens)
    hidden_TD = body(tokens_T, layout, states)
    picked = _picked_log_probabilities(head, hidden_TD, np.array(rows), np.array(labels))
    np.add.at(scores_N, np.array(readers), picked)


def _picked_log_probabilities(
    head: torch.nn.Module, hidden_TD: torch.Tensor, rows: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Float64 log p(labels[i]) at hidden state rows[i]; the head runs once per distinct row."""
    order = np.argsort(rows, kind="stable")
    distinct, position = np.unique(rows[order], return_inverse=True)
    hidden_RD = hidden_TD[torch.from_numpy(distinct).to(hidden_TD.device)]
    n_rows = max(1, label_scores.LOGITS_AT_ONCE // _vocabulary(head))
    picked = np.empty(len(rows))
    for first in range(0, len(distinct), n_rows):
        logits_RV = head(hidden_RD[first : first + n_rows])
        begin, end = np.searchsorted(position, (first, first + n_rows))
        total_R = log_sum_exp(logits_RV)
        here = torch.from_numpy(position[begin:end] - first).to(logits_RV.device)
        token = torch.from_numpy(labels[order[begin:end]]).to(logits_RV.device)
        values = logits_RV[here, token].double() - total_R[here]
        picked[order[begin:end]] = values.cpu().numpy()
    return picked


def _body_and_head(model: torch.nn.Module) -> tuple[Body, torch.nn.Module]:
    """The decoder without its head, and the head, so that logits can be made in chunks."""
    causal = without_adapters(model)
    decoder = causal.base_model
    device = next(causal.parameters()).device

    def body(tokens_T: torch.Tensor, layout: TreeLayout, states: TrunkStates) -> torch.Tensor:
        uses = layout.uses
        output = decoder(
            input_ids=tokens_T[None].to(device),
            position_ids=layout.positions()[None].to(device),
            tree_layout=layout,
            trunk_states=[states],
            use_cache=False,
        )
        check_layout_used(model, layout, uses)
        hidden_TD: torch.Tensor = output.last_hidden_state[0]
        return hidden_TD

    return body, causal.get_output_embeddings()


def _check_plain_head(
    model: torch.nn.Module, body: Body, head: torch.nn.Module, token: int
) -> None:
    """Some architectures scale or cap logits after the head, which chunks would miss."""
    layout = TreeLayout((1,), ((),))
    token_1, first_1 = torch.tensor([token]), torch.tensor([0])
    ours = head(body(token_1, layout, TrunkStates(recording=False)))
    device = ours.device
    theirs = label_logits(
        model, token_1.to(device), layout.positions().to(device), layout, first_1.to(device)
    )
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__} changes its logits after the head (a scale or a cap), so that "
            f"long likelihoods cannot be computed in chunks: choose a Llama-, Qwen3- or "
            f"Mixtral-like model"
        )


def _vocabulary(head: torch.nn.Module) -> int:
    linear: Any = getattr(head, "base_layer", head)  # peft may wrap it
    return int(linear.weight.shape[0])
