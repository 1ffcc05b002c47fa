"""How a model ages: targets by months since the end of its training data."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.splits import MS_PER_DAY
from data_pipeline.tree import Branch, Tree
from train.evaluation.curves.base import Curve, Ground

DAYS_PER_MONTH = 365.25 / 12
MOST_MONTHS = 24


class Months(Curve):
    """Targets by whole months between the end of training and their moment.

    Source: 360Brew (arXiv 2501.16450), section 2.6.3.
    """

    name = "months"
    x_label = "months after the end of training"
    same_targets = False
    has_slope = True

    def xs(self, ground: Ground) -> Sequence[float]:
        """Months, 0 = the first; those without a target have no point."""
        if ground.store.card.split.get("train_end") is None:
            raise ValueError(
                f"{ground.store.card.corpus_name} is split by {ground.store.card.split['method']}, "
                "so training has no end in time: build its token store with the split global_time"
            )
        return tuple(range(MOST_MONTHS))

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether the moment lies in month x."""
        since = tree.moment.time - int(ground.store.card.split["train_end"])
        return since >= 0 and since // (DAYS_PER_MONTH * MS_PER_DAY) == x
