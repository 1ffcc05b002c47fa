"""What a mixture will ask, counted on a sample of its trees: shares, tokens, what packing saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from data_pipeline.mixture import Mixture

SAMPLE_TREES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class MixturePlan:
    """Averages over a sample of trees. The mixture is pure, so the sample is what training sees."""

    trees: int
    tokens_per_tree: float
    targets_per_tree: float
    history_targets_per_tree: float
    tokens_if_unpacked: float
    """Tokens of one prompt per target, over tokens of the trees: what sharing trunks saves."""
    longest_tree: int
    targets_per_task: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As flat JSON."""
        total = max(1, sum(self.targets_per_task.values()))
        return {
            "sampled_trees": self.trees,
            "tokens_per_tree": self.tokens_per_tree,
            "targets_per_tree": self.targets_per_tree,
            "history_targets_per_tree": self.history_targets_per_tree,
            "unpacked_over_packed_tokens": self.tokens_if_unpacked,
            "longest_tree_tokens": self.longest_tree,
            "tasks": {
                name: {"share": count / total, "targets_per_tree": count / self.trees}
                for name, count in self.targets_per_task.items()
            },
        }


def plan_mixture(mixture: Mixture, trees: int = SAMPLE_TREES) -> MixturePlan:
    """Draw the first trees of the mixture and count."""
    targets = np.zeros(len(mixture.tasks), np.int64)
    history = packed = unpacked = longest = 0
    for index in range(trees):
        tree = mixture[index]
        branch_tokens = sum(len(branch.tokens) for branch in tree.branches)
        for branch in tree.branches:
            targets[branch.task] += 1
        history += tree.trunk_labels.targets
        packed += len(tree.trunk) + branch_tokens
        unpacked += len(tree.branches) * len(tree.trunk) + branch_tokens
        longest = max(longest, len(tree.trunk) + branch_tokens)
    return MixturePlan(
        trees=trees,
        tokens_per_tree=packed / trees,
        targets_per_tree=float(targets.sum()) / trees,
        history_targets_per_tree=history / trees,
        tokens_if_unpacked=unpacked / max(1, packed),
        longest_tree=longest,
        targets_per_task={
            task.name: int(n) for task, n in zip(mixture.tasks, targets, strict=True)
        },
    )
