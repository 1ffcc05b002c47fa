"""Greedy decoding: the likeliest next token, again and again, for many prompts at once.

Prompts of different lengths are padded on the left, so that all of them go on in one column. The
padding is masked and positions count real tokens only, so every prompt is continued as if it stood
alone. Keys and values of what was read are kept, so that each step reads one token per prompt.

Legend: B prompts, P tokens of the longest prompt, L = P + new tokens, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@torch.no_grad()
def decode_greedily(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int] | NDArray[np.integer]],
    *,
    stop_tokens: Collection[int],
    max_new_tokens: int,
    max_tokens: int = 8192,
) -> list[Ids]:
    """Continue every prompt by its likeliest tokens.

    Args:
        model: a causal LM from `modeling.backbone`, in eval mode.
        prompts: token ids, at least one each.
        stop_tokens: a text ends with the first of these.
        max_new_tokens: tokens of a text at most.
        max_tokens: prompts are taken together up to so many tokens, padding and new ones counted;
            a longer one stands alone.

    Returns:
        The new ids of each prompt, with the stop token where one was reached.

    Raises:
        ValueError: an empty prompt, no token to be made, a model in training mode, or logits that
            are not finite.
    """
    if model.training:
        raise ValueError("texts of a model in training mode are random: call model.eval() first")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: at least one token must be made")
    if not all(map(len, prompts)):
        raise ValueError("a prompt has no token: nothing could be predicted from it")
    found: dict[int, Ids] = {}
    for rows in _batches([len(prompt) for prompt in prompts], max_new_tokens, max_tokens):
        batch = [np.asarray(prompts[row], np.int64) for row in rows]
        texts = _decode_batch(model, batch, frozenset(stop_tokens), max_new_tokens)
        found.update(zip(rows, texts, strict=True))
    return [found[row] for row in range(len(prompts))]


def _batches(lengths: Sequence[int], new: int, max_tokens: int) -> Iterator[list[int]]:
    """Rows of prompts of like length, the shortest first: little of a batch is padding."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (len(rows) + 1) * (lengths[row] + new) > max_tokens:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _decode_batch(
    model: torch.nn.Module, prompts: Sequence[Ids], stop_tokens: frozenset[int], new: int
) -> list[Ids]:
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    tokens = np.stack([np.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    real = np.stack([np.arange(longest + new) >= longest - len(prompt) for prompt in prompts])
    tokens_BP = torch.from_numpy(tokens).to(device)
    mask_BL = torch.from_numpy(real.astype(np.int64)).to(device)
    positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
    stops = torch.tensor(sorted(stop_tokens), dtype=torch.int64, device=device)
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    made: list[torch.Tensor] = []
    cache, begin = None, 0
    fed = tokens_BP
    for end in range(longest, longest + new):
        output = model(
            input_ids=fed,
            attention_mask=mask_BL[:, :end],
            position_ids=positions_BL[:, begin:end],
            past_key_values=cache,
            logits_to_keep=1,
            use_cache=True,
        )
        logits_BV = output.logits[:, -1]
        if not logits_BV.isfinite().all():
            raise ValueError(
                "logits are not finite while a text is written: the model has diverged or its "
                "weights are broken"
            )
        next_B = logits_BV.argmax(-1)
        made.append(next_B)
        ended_B |= torch.isin(next_B, stops)
        if ended_B.all():
            break
        cache, begin, fed = output.past_key_values, end, next_B[:, None]
    return [_until_stop(row, stop_tokens) for row in torch.stack(made, 1).cpu().numpy()]


def _until_stop(ids: Ids, stop_tokens: frozenset[int]) -> Ids:
    ends = [place for place, token in enumerate(ids.tolist()) if token in stop_tokens]
    return ids[: ends[0] + 1] if ends else ids
