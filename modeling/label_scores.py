"""Scores of answers that are one token: logits at label positions, and label probabilities.

Hidden states are gathered first and the head runs on them alone, so that nothing here ever holds a
tensor of tokens x vocabulary.

Legend: T tokens of the row, M label positions, V vocabulary, C choices of all positions together.
"""

from collections.abc import Sequence
from typing import Any

import torch

from modeling.tree_layout import TreeLayout
from modeling.trunk_states import TrunkStates

# Logits held at once while scoring, in numbers: 16 MB of fp32.
LOGITS_AT_ONCE = 4 * 1024 * 1024


class NotFiniteError(ValueError):
    """A logit is NaN or infinite: scores would be noise."""

    def __init__(self, position: int, n_positions: int) -> None:
        super().__init__(
            f"logits are not finite at position {position} of {n_positions}: the model has "
            f"diverged or its weights are broken; scores of it would be noise"
        )
        self.position = position


def label_logits(
    model: torch.nn.Module,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    layout: TreeLayout,
    label_positions_M: torch.Tensor,
    trunk_states: Sequence[TrunkStates | None] | None = None,
) -> torch.Tensor:
    """Logits of the next token at the label positions of one micro-batch, fp32 [M, V].

    Args:
        model: a causal LM from `modeling.backbone` (or a wrapper that passes keywords on).
        tokens_T: int64 [T].
        positions_T: int64 [T], as `layout.positions()` gives them.
        layout: where the trees of the row lie.
        label_positions_M: int64 [M], indices into T.
        trunk_states: for each tree, keys and values of the tokens that its layout calls cached.

    Raises:
        ValueError: the model's architecture does not hand the layout to its attention layers, or
            its head is not computed in fp32.
    """
    states = {} if trunk_states is None else {"trunk_states": trunk_states}
    head_1MV = at_labels(model, tokens_T, positions_T, layout, label_positions_M, **states)
    return checked_fp32(head_1MV[0])


def at_labels(
    model: torch.nn.Module,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    layout: TreeLayout,
    label_positions_M: torch.Tensor,
    **keywords: Any,
) -> torch.Tensor:
    """What the model's head gives for the label positions of a row: [1, M, V] where it is logits.

    Raises:
        ValueError: the model does not hand the layout to its attention layers.
    """
    uses = layout.uses
    output = model(
        input_ids=tokens_T[None],
        position_ids=positions_T[None],
        tree_layout=layout,
        logits_to_keep=label_positions_M,
        use_cache=False,
        **keywords,
    )
    check_layout_used(model, layout, uses)
    given: torch.Tensor = output.logits
    return given


def checked_fp32(logits: torch.Tensor) -> torch.Tensor:
    """The logits, or an error where a head of half precision made them: it ties candidates."""
    if logits.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the model gave logits in {logits.dtype}; scores need an fp32 head: load the model "
            f"with modeling.backbone.load_backbone, or call use_fp32_head(model)"
        )
    return logits


def check_layout_used(model: torch.nn.Module, layout: TreeLayout, uses_before: int) -> None:
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
        NotFiniteError: a logit is not finite.
        ValueError: offsets, tokens and logits do not fit together.
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
    total_M = log_sum_exp(logits_MV)
    peak_M = torch.full_like(total_M, -torch.inf).scatter_reduce(0, rows_C, chosen_C, "amax")
    weights_C = (chosen_C - peak_M[rows_C]).exp()
    sums_M = torch.zeros_like(total_M).index_add(0, rows_C, weights_C)
    mass_M = torch.where(counts_M > 0, sums_M * (peak_M - total_M).exp(), 0.0)
    return weights_C / sums_M[rows_C], mass_M


def log_sum_exp(logits_MV: torch.Tensor) -> torch.Tensor:
    """The softmax's denominator per position, fp64 [M], in chunks of positions.

    Raises:
        NotFiniteError: a logit is not finite.
    """
    rows = max(1, LOGITS_AT_ONCE // logits_MV.shape[1])
    total_M = torch.cat([chunk.logsumexp(-1) for chunk in torch.split(logits_MV, rows)]).double()
    if not total_M.isfinite().all():
        raise NotFiniteError(int((~total_M.isfinite()).nonzero()[0, 0]), len(total_M))
    return total_M
