"""What a history itself teaches: its past actions and titles as targets (layouts L1 and tree)."""

import numpy as np

from data_pipeline.mixture_config import MixtureConfig
from data_pipeline.store import EventSpans, TokenStore
from data_pipeline.tree import NO_LABELS, Ids, TrunkLabels


def can_supervise(store: TokenStore, config: MixtureConfig) -> bool:
    """Whether some token of a store's histories may be a target."""
    actions = config.history_loss_weight and store.card.action_label_offset is not None
    return bool(actions or config.history_title_weight)


def history_labels(
    store: TokenStore, config: MixtureConfig, trunk: Ids, spans: EventSpans, style: str
) -> TrunkLabels:
    """Supervise the actions and titles of a trunk's events, each with its weight."""
    n_events = len(spans.items)
    positions, weights, targets = [], [], 0
    offset = store.card.action_label_offset
    if config.history_loss_weight and n_events and offset is not None:
        positions.append(spans.actions + (offset - 1))
        weights.append(np.full(n_events, config.history_loss_weight, np.float32))
        targets += n_events
    if config.history_title_weight and n_events and style == "plain":
        lengths = store.title_lengths_N[spans.items]
        ends = np.cumsum(lengths)
        first = np.repeat(spans.records - 1 - ends + lengths, lengths)
        positions.append(first + np.arange(ends[-1]))
        share = config.history_title_weight / np.maximum(lengths, 1)
        weights.append(np.repeat(share, lengths).astype(np.float32))
        targets += int((lengths > 0).sum())
    if not positions:
        return NO_LABELS
    places = np.concatenate(positions)
    return TrunkLabels(
        positions=places,
        tokens=trunk[places + 1].astype(np.int64),
        weights=np.concatenate(weights),
        targets=targets,
    )
