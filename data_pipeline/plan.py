"""What a run's mixture asks, counted by walking it: targets and tokens of each corpus and task.

Shape: K columns, as in a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.mixture import Mixture
from data_pipeline.packing import Layout, count, laid_out
from data_pipeline.tree import Tree

HISTORY: Final = "history"
"""Name of the row of what all tasks share: the tokens of trunks, and past actions as targets."""

Counts = dict[str, dict[str, dict[str, int]]]
"""Corpus -> task -> targets, tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the trees of a run add up to. The mixture is pure: a run consumes exactly this."""

    steps: int
    global_batch: int
    """Trees of a step."""
    walked: int
    """Trees that were counted; fewer than `trees` where the plan is a sample."""
    counts: Counts
    """Of the whole run: extrapolated where the plan is a sample."""
    longest_tree: int
    """Tokens of the longest tree that was counted."""
    unpacked_tokens: float
    """Tokens of one prompt per target, over tokens of the trees: what sharing trunks saves."""
    fewest_users: int
    """Different users of the step that has fewest."""
    mean_users: float
    """Different users of a step."""

    @property
    def trees(self) -> int:
        """Trees of the whole run."""
        return self.steps * self.global_batch

    @property
    def exact(self) -> bool:
        """Whether every tree was counted."""
        return self.walked == self.trees

    def total(self, what: str, corpus: str | None = None, task: str | None = None) -> int:
        """Sum of `targets` or `tokens`, of one corpus or task or of all."""
        return sum(
            row[what]
            for name, tasks in self.counts.items()
            if corpus in (None, name)
            for row_task, row in tasks.items()
            if task in (None, row_task)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        tokens, targets = self.total("tokens"), self.total("targets")
        return {
            "steps": self.steps,
            "global_batch": self.global_batch,
            "trees": self.trees,
            "walked_trees": self.walked,
            "exact": self.exact,
            "targets": targets,
            "tokens": tokens,
            "tokens_per_tree": tokens / self.trees,
            "targets_per_tree": targets / self.trees,
            "history_targets_per_tree": self.total("targets", task=HISTORY) / self.trees,
            "unpacked_over_packed_tokens": self.unpacked_tokens,
            "longest_tree_tokens": self.longest_tree,
            "users_per_step": {"fewest": self.fewest_users, "mean": self.mean_users},
            "tasks": {name: self._row(task=name) for name in next(iter(self.counts.values()))},
            "corpora": {
                corpus: {
                    **self._row(corpus=corpus),
                    "tasks": {name: self._row(corpus=corpus, task=name) for name in tasks},
                }
                for corpus, tasks in self.counts.items()
            },
        }

    def _row(self, **which: str) -> dict[str, float]:
        targets, tokens = self.total("targets", **which), self.total("tokens", **which)
        share = targets / max(1, self.total("targets"))
        return {"targets": targets, "tokens": tokens, "share": share}


def make_plan(
    mixture: Mixture,
    *,
    steps: int,
    global_batch: int,
    layout: Layout = "L2",
    max_trees: int | None = None,
    advance: Callable[[int], None] = lambda trees: None,
) -> Plan:
    """Walk the trees of a run, or of some of its steps.

    Args:
        mixture: the run's.
        steps: of the run.
        global_batch: trees of a step.
        layout: of the micro-batches; L0 counts a trunk once per branch.
        max_trees: a longer run is judged by so many trees, of steps spread evenly over it.
        advance: told how many trees were just counted.

    Raises:
        DataError: a tree could not be assembled.
    """
    walked_steps = steps
    if max_trees is not None and steps * global_batch > max_trees:
        walked_steps = max(1, max_trees // global_batch)
    n_tasks, n_corpora = len(mixture.tasks), len(mixture.stores)
    sums = np.zeros((2, n_corpora * (n_tasks + 1)), np.int64)
    longest = packed = unpacked = 0
    users = []
    for number in range(walked_steps):
        first = number * steps // walked_steps * global_batch
        made = [mixture[index] for index in range(first, first + global_batch)]
        sums += count(laid_out(made, layout), n_tasks, n_corpora)
        sizes = [_sizes(tree) for tree in made]
        longest = max(longest, *(size for size, _ in sizes))
        packed += sum(size for size, _ in sizes)
        unpacked += sum(size for _, size in sizes)
        users.append(len({(tree.corpus, tree.moment.user) for tree in made if _has_user(tree)}))
        advance(global_batch)
    # Where all steps were walked the factor is 1, and so nothing is rounded.
    whole = sums if walked_steps == steps else np.rint(sums * (steps / walked_steps))
    return Plan(
        steps=steps,
        global_batch=global_batch,
        walked=walked_steps * global_batch,
        counts=named_counts(mixture, whole),
        longest_tree=longest,
        unpacked_tokens=unpacked / max(1, packed),
        fewest_users=min(users),
        mean_users=float(np.mean(users)),
    )


def named_counts(
    mixture: Mixture, sums_2K: NDArray[np.generic] | Sequence[Sequence[int]]
) -> Counts:
    """Targets and tokens of columns, by corpus and task; the row `history` is the last of each."""
    names = [*(task.name for task in mixture.tasks), HISTORY]
    columns = np.asarray(sums_2K, np.int64).reshape(2, len(mixture.stores), len(names)).tolist()
    return {
        corpus: {
            name: {"targets": columns[0][c][t], "tokens": columns[1][c][t]}
            for t, name in enumerate(names)
        }
        for c, corpus in enumerate(mixture.corpus_names)
    }


def _sizes(tree: Tree) -> tuple[int, int]:
    """Tokens of a tree, and of its branches as prompts of their own."""
    branches = sum(len(branch.tokens) for branch in tree.branches)
    return len(tree.trunk) + branches, branches + sum(len(tree.before(b)) for b in tree.branches)


def _has_user(tree: Tree) -> bool:
    return tree.moment.user >= 0
