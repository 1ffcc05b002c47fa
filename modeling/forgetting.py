"""Distance-based forgetting: less of what a window should have hidden. Not exact.

In a windowed trunk (`modeling.tree_windows`) the deep states of an event carry older events, which
its targets must not see. Dynamic Target Isolation (Lin et al. 2025, arXiv 2503.01001) answers by
interpolating the deep hidden states of context tokens towards their initial embeddings, the more
the farther they are from the target:

    h_l <- (1 - a) h_l + a h_0        after every layer whose states are attended to

The paper lets a depend on token and target. Here a belongs to the token, so that one pass still
serves all targets: targets stand in branches (a = 0), and distance is counted to the trunk's end.
The rates are the caller's; `linear_rates` is our schedule, not the paper's.

Legend: T tokens of the row, D width of the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from modeling.tree_layout import TreeLayout


@contextmanager
def forgetting(model: Any, rates_T: torch.Tensor) -> Iterator[None]:
    """A context in which a decoder forgets; keep it open over the backward pass too.

    Args:
        model: a causal LM of transformers, whose decoder has `layers`.
        rates_T: a for each token of the row, float [T] within 0 (keep) and 1 (only the embedding).

    Raises:
        ValueError: a rate lies outside 0 to 1.
    """
    if not bool(((rates_T >= 0) & (rates_T <= 1)).all()):
        raise ValueError("a token forgets between 0 (nothing) and 1 (all but its embedding)")
    embeddings: list[torch.Tensor] = []

    def keep(module: Any, args: Any, embedded_1TD: torch.Tensor) -> None:
        embeddings[:] = [embedded_1TD]

    def blend(module: Any, args: Any, states_1TD: torch.Tensor) -> torch.Tensor:
        rates_T1 = rates_T.to(states_1TD)[:, None]
        return torch.lerp(states_1TD, embeddings[0], rates_T1)

    # No token attends to the states behind the last layer.
    layers = model.get_decoder().layers[:-1]
    hooks = [model.get_input_embeddings().register_forward_hook(keep)]
    hooks += [layer.register_forward_hook(blend) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def linear_rates(layout: TreeLayout, strength: float) -> torch.Tensor:
    """Rates that grow with the events between a token and its trunk's end, float32 [T].

    `strength` is reached at the window's size. Profiles and branches, which carry nothing from
    outside a window, keep their states, as do trunks without a window.
    """
    rates_T = np.zeros(layout.n_tokens, np.float32)
    for piece in layout.pieces():
        window = layout.windows[piece.tree] if layout.windows else None
        if window is None or piece.branch:
            continue
        positions = np.arange(piece.attach, piece.attach + piece.length)
        event = np.searchsorted(window.starts, positions, side="right")  # 0 is the profile
        share = np.minimum(1, (len(window.starts) - event) / window.size)
        rates_T[piece.start : piece.start + piece.length] = strength * np.where(event, share, 0)
    return torch.from_numpy(rates_T)
