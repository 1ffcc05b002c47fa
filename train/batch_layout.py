"""The layout of a micro-batch: what `data_pipeline` packed, in the words of `modeling`."""

from __future__ import annotations

import numpy as np

from data_pipeline.packing import MicroBatch
from modeling.tree_layout import TreeLayout
from modeling.tree_windows import EventWindow


def layout_of(batch: MicroBatch) -> TreeLayout:
    """Where the trees of a micro-batch lie, and what their branches and events see."""
    return TreeLayout.from_arrays(
        batch.trunk_lengths,
        batch.branch_counts,
        batch.branch_lengths,
        batch.attach_lengths,
        windows=_windows(batch),
    )


def _windows(batch: MicroBatch) -> list[EventWindow | None]:
    """The window of each tree, where the mixture has them."""
    starts = np.split(batch.event_starts, np.cumsum(batch.event_counts)[:-1])
    return [
        EventWindow(tuple(own.tolist()), int(size)) if len(own) else None
        for own, size in zip(starts, batch.window_sizes, strict=True)
    ]
