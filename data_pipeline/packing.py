"""Trees packed flat into one token row, without padding: a micro-batch.

Shapes: T tokens of the row, M label positions, B branches, K columns of what is counted: the tasks
of each corpus in turn, and behind a corpus's last task its supervised history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.tree import NO_LABELS, Branch, Tree

Layout = Literal["L0", "L2"]
Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Trees in one row: trunk, its branches, the next trunk, ...

    A branch's positions go on from what it sees of its trunk. Labels name the position whose *next*
    token is predicted.
    """

    tokens_T: Array
    positions_T: Array
    trunk_lengths: Array
    branch_counts: Array
    branch_lengths: Array
    attach_lengths: Array
    """Trunk tokens that each branch sees, the first ones; shape [B]."""
    window_sizes: Array
    """Events that are seen of each trunk, before one's own; 0: all. Then no starts are given."""
    event_counts: Array
    """Events of each trunk whose starts are given."""
    event_starts: Array
    """Trunk positions at which events begin, trunk after trunk."""
    label_positions_M: Array
    label_tokens_M: Array
    label_weights_M: NDArray[np.float32]
    """The label weights of one target sum to the target's weight."""
    label_columns_M: Array
    """Column of each label."""
    targets_K: Array
    """Targets of each column."""
    tokens_K: Array
    """Tokens of each column's branches; the trunks' are in the column of the supervised history."""
    branch_label_positions_B: Array
    """First label position of each branch."""
    choice_offsets: Array
    choice_tokens: Array
    """Branch b can be answered by `choice_tokens[choice_offsets[b]:choice_offsets[b + 1]]`."""

    @property
    def n_trees(self) -> int:
        """Trees in the row."""
        return len(self.trunk_lengths)

    @property
    def n_targets(self) -> int:
        """Supervised answers in the row."""
        return int(self.targets_K.sum())

    @property
    def n_tokens(self) -> int:
        """Tokens in the row."""
        return len(self.tokens_T)


def pack(
    trees: Sequence[Tree], n_tasks: int, *, n_corpora: int = 1, layout: Layout = "L2"
) -> MicroBatch:
    """Pack trees into one row.

    Layout L2 writes each trunk once, with its branches behind it. L0 gives every branch a copy of
    its own of what it sees of the trunk: one prompt per target, the reference that L2 must equal.
    """
    trees = laid_out(trees, layout)
    branches = [branch for tree in trees for branch in tree.branches]
    trunk_lengths = np.array([len(tree.trunk) for tree in trees], np.int64)
    branch_counts = np.array([len(tree.branches) for tree in trees], np.int64)
    branch_lengths = np.array([len(branch.tokens) for branch in branches], np.int64)
    attach_lengths = np.array(
        [len(tree.before(branch)) for tree in trees for branch in tree.branches], np.int64
    )

    runs = [run for tree in trees for run in (tree.trunk, *(b.tokens for b in tree.branches))]
    tree_of_branch = np.repeat(np.arange(len(trees)), branch_counts)
    # A run is a trunk or a branch; branches come `tree_of_branch + 1` trunks late in the row.
    branch_runs = np.arange(len(branches)) + tree_of_branch + 1
    trunk_runs = np.cumsum(branch_counts + 1) - branch_counts - 1
    lengths = np.empty(len(runs), np.int64)
    lengths[trunk_runs], lengths[branch_runs] = trunk_lengths, branch_lengths
    starts = np.cumsum(lengths) - lengths
    first_positions = np.zeros(len(runs), np.int64)
    first_positions[branch_runs] = attach_lengths
    n_tokens = int(lengths.sum())
    positions = np.arange(n_tokens) - np.repeat(starts - first_positions, lengths)

    answers = np.array([len(branch.answer) for branch in branches], np.int64)
    ends = starts[branch_runs] + branch_lengths
    branch_labels = _ranges(ends - answers, answers)
    branch_weights = np.array([branch.weight for branch in branches], np.float32)
    history = [tree.trunk_labels for tree in trees]
    event_starts = [_event_starts(tree) for tree in trees]
    history_positions = [
        labels.positions + start for labels, start in zip(history, starts[trunk_runs], strict=True)
    ]
    branch_columns, history_columns = _columns(trees, n_tasks)
    targets_K, tokens_K = count(trees, n_tasks, n_corpora)
    n_history = [len(labels.positions) for labels in history]
    return MicroBatch(
        tokens_T=_join(runs),
        positions_T=positions,
        trunk_lengths=trunk_lengths,
        branch_counts=branch_counts,
        branch_lengths=branch_lengths,
        attach_lengths=attach_lengths,
        window_sizes=np.array([tree.window.size if tree.window else 0 for tree in trees], np.int64),
        event_counts=np.array([len(starts) for starts in event_starts], np.int64),
        event_starts=_join(event_starts),
        label_positions_M=_join([branch_labels, *history_positions]),
        label_tokens_M=_join([*(b.answer for b in branches), *(h.tokens for h in history)]),
        label_weights_M=np.concatenate(
            [np.repeat(branch_weights / answers, answers), *(labels.weights for labels in history)]
        ).astype(np.float32),
        label_columns_M=_join(
            [np.repeat(branch_columns, answers), np.repeat(history_columns, n_history)]
        ),
        targets_K=targets_K,
        tokens_K=tokens_K,
        branch_label_positions_B=ends - answers,
        choice_offsets=np.cumsum([0, *(len(branch.choices) for branch in branches)]),
        choice_tokens=_join([branch.choices for branch in branches]),
    )


def laid_out(trees: Sequence[Tree], layout: Layout) -> Sequence[Tree]:
    """Return the trees as a layout writes them: in L0 every branch has a tree of its own."""
    if layout == "L2":
        return trees
    return [single for tree in trees for single in _singles(tree)]


def count(trees: Sequence[Tree], n_tasks: int, n_corpora: int = 1) -> tuple[Array, Array]:
    """Return the targets and the tokens of each column; shapes [K], [K]."""
    branch_columns, history_columns = _columns(trees, n_tasks)
    n_columns = n_corpora * (n_tasks + 1)
    lengths = [len(branch.tokens) for branch in branches_of(trees)]
    targets = np.bincount(branch_columns, minlength=n_columns)
    tokens = np.bincount(branch_columns, lengths, n_columns).astype(np.int64)
    np.add.at(targets, history_columns, [tree.trunk_labels.targets for tree in trees])
    np.add.at(tokens, history_columns, [len(tree.trunk) for tree in trees])
    return targets, tokens


def _columns(trees: Sequence[Tree], n_tasks: int) -> tuple[Array, Array]:
    """The column of every branch, and that of every tree's supervised history."""
    first = [tree.corpus * (n_tasks + 1) for tree in trees]
    branches = [
        start + branch.task
        for start, tree in zip(first, trees, strict=True)
        for branch in tree.branches
    ]
    return np.array(branches, np.int64), np.array(first, np.int64) + n_tasks


def _singles(tree: Tree) -> list[Tree]:
    """One tree per branch, with what the branch sees of the trunk.

    The supervised history stays with the first that sees all of it, to be counted once; where none
    does, the trunk stands alone too.
    """
    sees_all = (branch for branch in tree.branches if len(tree.before(branch)) == len(tree.trunk))
    keeper = next(sees_all, None)
    singles = [
        replace(
            tree,
            trunk=tree.before(branch),
            branches=(branch,),
            trunk_labels=tree.trunk_labels if branch is keeper else NO_LABELS,
        )
        for branch in tree.branches
    ]
    if keeper is None and (tree.trunk_labels.targets or not singles):
        singles.append(replace(tree, branches=()))
    return singles


def _event_starts(tree: Tree) -> Array:
    """Where the events begin that a window counts, of those that the trunk shows."""
    if tree.window is None:
        return np.empty(0, np.int64)
    return tree.window.starts[tree.window.starts < len(tree.trunk)]


def _ranges(starts: Array, lengths: Array) -> Array:
    """Concatenate `arange(start, start + length)` of every pair."""
    total = int(lengths.sum())
    return np.arange(total) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def _join(parts: Sequence[NDArray[np.integer]]) -> Array:
    if not parts:
        return np.empty(0, np.int64)
    return np.concatenate(parts).astype(np.int64, copy=False)


def branches_of(trees: Sequence[Tree]) -> list[Branch]:
    """Every branch in the order of a micro-batch of these trees."""
    return [branch for tree in trees for branch in tree.branches]
