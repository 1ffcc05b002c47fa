"""Scores of answers: logits at label positions, label probabilities, likelihoods of texts.

Nothing here ever holds a tensor of tokens x vocabulary: hidden states are gathered first, the head
runs on them in chunks.

Legend: T tokens of the row, M label positions, V vocabulary, C choices of all positions together,
P context length, N continuations, R rows of hidden states that are asked for, D hidden width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modeling.tree_attention import TreeLayout

# (tokens_T, positions_T, layout) -> hidden_TD
Body = Callable[[torch.Tensor, torch.Tensor, TreeLayout], torch.Tensor]

# Logits held at once while scoring, in numbers: 16 MB of fp32.
LOGITS_AT_ONCE = 4 * 1024 * 1024


def label_logits(
    model: torch.nn.Module,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    layout: TreeLayout,
    label_positions_M: torch.Tensor,
) -> torch.Tensor:
    """Logits of the next token at the label positions of one micro-batch, fp32 [M, V].

    Args:
        model: a causal LM from `modeling.backbone` (or a wrapper that passes keywords on).
        tokens_T: int64 [T].
        positions_T: int64 [T], as `layout.positions()` gives them.
        layout: where the trees of the row lie.
        label_positions_M: int64 [M], indices into T.

    Raises:
        ValueError: the model's architecture does not hand the layout to its attention layers, or
            its head is not computed in fp32.
    """
    uses = layout.uses
    output = model(
        input_ids=tokens_T[None],
        position_ids=positions_T[None],
        tree_layout=layout,
        logits_to_keep=label_positions_M,
        use_cache=False,
    )
    _check_layout_used(model, layout, uses)
    logits_MV: torch.Tensor = output.logits[0]
    if logits_MV.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the model gave logits in {logits_MV.dtype}; scores need an fp32 head: load the model "
            f"with modeling.backbone.load_backbone, or call use_fp32_head(model)"
        )
    return logits_MV


def _check_layout_used(model: torch.nn.Module, layout: TreeLayout, uses_before: int) -> None:
    """Trees that run into each other give plausible numbers: better none than those."""
    if layout.uses == uses_before:
        raise ValueError(
            f"{type(model).__name__} did not hand `tree_layout` to its attention layers, so trees "
            f"and branches would see each other. Load the model with modeling.backbone "
            f"(attn_implementation='brewhouse_tree'); if it was, its architecture drops forward's "
            f"keywords and cannot be used"
        )


def choice_probabilities(
    logits_MV: torch.Tensor, choice_tokens_C: torch.Tensor, choice_offsets_M1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of each position's own label tokens, and how much of the whole they hold.

    Args:
        logits_MV: fp32 [M, V].
        choice_tokens_C: int64 [C], the label tokens of position 0, then of position 1, ...
        choice_offsets_M1: int64 [M + 1], where each position's label tokens begin; a position may
            have none.

    Returns:
        Probabilities, fp64 [C]: the softmax over a position's label tokens alone; and label mass,
        fp64 [M]: the probability of the label tokens together among all V (0 without choices).

    Raises:
        ValueError: a logit is not finite, or offsets, tokens and logits do not fit together.
    """
    device = logits_MV.device
    tokens_C, offsets_M1 = choice_tokens_C.to(device), choice_offsets_M1.to(device)
    M, V = logits_MV.shape
    counts_M = offsets_M1.diff()
    if len(offsets_M1) != M + 1 or int(offsets_M1[-1]) != len(tokens_C) or (counts_M < 0).any():
        raise ValueError(
            f"choice offsets must rise from 0 to the number of choices, one more than positions: "
            f"got {len(offsets_M1)} offsets that end at {int(offsets_M1[-1])} for {M} positions "
            f"and {len(tokens_C)} choices"
        )
    if len(tokens_C) and not 0 <= int(tokens_C.min()) <= int(tokens_C.max()) < V:
        raise ValueError(f"a choice token lies outside of the vocabulary of {V} tokens")
    rows_C = torch.repeat_interleave(torch.arange(M, device=device), counts_M)
    chosen_C = logits_MV[rows_C, tokens_C].double()
    total_M = _log_sum_exp(logits_MV)
    peak_M = torch.full_like(total_M, -torch.inf).scatter_reduce(0, rows_C, chosen_C, "amax")
    weights_C = (chosen_C - peak_M[rows_C]).exp()
    sums_M = torch.zeros_like(total_M).index_add(0, rows_C, weights_C)
    mass_M = torch.where(counts_M > 0, sums_M * (peak_M - total_M).exp(), 0.0)
    return weights_C / sums_M[rows_C], mass_M


def _log_sum_exp(logits_RV: torch.Tensor) -> torch.Tensor:
    """The softmax's denominator per row, fp64 [R], in chunks of rows."""
    rows = max(1, LOGITS_AT_ONCE // logits_RV.shape[1])
    total_R = torch.cat([chunk.logsumexp(-1) for chunk in torch.split(logits_RV, rows)]).double()
    if not total_R.isfinite().all():
        row = int((~total_R.isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"logits are not finite at position {row} of {len(total_R)}: the model has diverged or "
            f"its weights are broken; scores of it would be noise"
        )
    return total_R


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
) -> np.ndarray:
    """Exact log p(continuation | context) of every continuation, float64 [N].

    The context is the trunk and is encoded once per pass; continuations are its branches. The
    last token of a continuation is predicted, never fed; the first is predicted from the context.

    Args:
        model: a causal LM from `modeling.backbone`, in eval mode.
        context_P: token ids, at least one.
        continuations: token ids of each text, at least one token each.
        max_tokens: tokens of one pass, context included; memory grows with it, not with N.

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
    for feeds in _passes(_plan_feeds(texts), max_tokens - len(context), len(context)):
        _score_pass(body, head, context, texts, feeds, scores_N)
    return scores_N


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


def _passes(feeds: list[_Feed], room: int, n_context: int) -> Iterator[list[_Feed]]:
    """Feeds in groups of at most `room` tokens."""
    group: list[_Feed] = []
    used = 0
    for feed in feeds:
        if len(feed.tokens) > room:
            raise ValueError(
                f"continuation {feed.texts[0]} needs {len(feed.tokens)} tokens behind a context of "
                f"{n_context}, and max_tokens leaves room for {room}: raise max_tokens or shorten "
                f"the context"
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
    context: tuple[int, ...],
    texts: list[tuple[int, ...]],
    feeds: list[_Feed],
    scores_N: np.ndarray,
) -> None:
    """Add the log probabilities of the feeds' texts to `scores_N`."""
    branches = [feed.tokens for feed in feeds if feed.tokens]
    layout = TreeLayout((len(context),), (tuple(map(len, branches)),))
    tokens_T = torch.tensor([*context, *(token for branch in branches for token in branch)])
    rows: list[int] = []
    labels: list[int] = []
    readers: list[int] = []
    start = len(context)
    for feed in feeds:
        for n in feed.texts:
            text = texts[n]
            rows += [len(context) - 1, *range(start, start + len(text) - 1)]
            labels += text
            readers += [n] * len(text)
        start += len(feed.tokens)
    hidden_TD = body(tokens_T, layout.positions(), layout)
    picked = _picked_log_probabilities(head, hidden_TD, np.array(rows), np.array(labels))
    np.add.at(scores_N, np.array(readers), picked)


def _picked_log_probabilities(
    head: torch.nn.Module, hidden_TD: torch.Tensor, rows: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Float64 log p(labels[i]) at hidden state rows[i]; the head runs once per distinct row."""
    order = np.argsort(rows, kind="stable")
    distinct, position = np.unique(rows[order], return_inverse=True)
    hidden_RD = hidden_TD[torch.from_numpy(distinct).to(hidden_TD.device)]
    n_rows = max(1, LOGITS_AT_ONCE // _vocabulary(head))
    picked = np.empty(len(rows))
    for first in range(0, len(distinct), n_rows):
        logits_RV = head(hidden_RD[first : first + n_rows])
        begin, end = np.searchsorted(position, (first, first + n_rows))
        total_R = _log_sum_exp(logits_RV)
        here = torch.from_numpy(position[begin:end] - first).to(logits_RV.device)
        token = torch.from_numpy(labels[order[begin:end]]).to(logits_RV.device)
        values = logits_RV[here, token].double() - total_R[here]
        picked[order[begin:end]] = values.cpu().numpy()
    return picked


def _body_and_head(model: torch.nn.Module) -> tuple[Body, torch.nn.Module]:
    """The decoder without its head, and the head, so that logits can be made in chunks."""
    causal: Any = model
    if hasattr(causal, "get_base_model"):  # peft: LoRA layers sit inside this model
        causal = causal.get_base_model()
    decoder = causal.base_model
    device = next(causal.parameters()).device

    def body(tokens_T: torch.Tensor, positions_T: torch.Tensor, layout: TreeLayout) -> torch.Tensor:
        uses = layout.uses
        output = decoder(
            input_ids=tokens_T[None].to(device),
            position_ids=positions_T[None].to(device),
            tree_layout=layout,
            use_cache=False,
        )
        _check_layout_used(model, layout, uses)
        hidden_TD: torch.Tensor = output.last_hidden_state[0]
        return hidden_TD

    return body, causal.get_output_embeddings()


def _check_plain_head(
    model: torch.nn.Module, body: Body, head: torch.nn.Module, token: int
) -> None:
    """Some architectures scale or cap logits after the head, which chunks would miss."""
    layout = TreeLayout((1,), ((),))
    token_1, first_1 = torch.tensor([token]), torch.tensor([0])
    ours = head(body(token_1, layout.positions(), layout))
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
