"""Trees in a model with so many positions: what is too long, and what to say of it."""

from collections.abc import Sequence

from data_pipeline.errors import DataError
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Tree


def excess(tree: Tree, context_length: int) -> int:
    """Return by how many tokens the longest prompt of a tree exceeds the context; 0 where none."""
    longest = max([len(tree.trunk), *(_end(tree, branch) for branch in tree.branches)])
    return max(0, longest - context_length)


def too_long(
    tree: Tree, context_length: int, tasks: Sequence[Task], store: TokenStore
) -> DataError:
    """The error for a tree that stays too long though no history is left to drop."""
    corpus = f"corpus {store.card.corpus_name!r}"
    if len(tree.trunk) > context_length or not tree.branches:
        return DataError(
            f"a trunk of {corpus} takes {len(tree.trunk)} tokens without any history, and the "
            f"model has {context_length} positions",
            value=store.user_ids[tree.moment.user] if tree.moment.user >= 0 else None,
            remedy="take a model with more positions, or compile the store with shorter profiles",
        )
    branch = max(tree.branches, key=lambda branch: _end(tree, branch))
    asked = branch.question.candidates
    item = f" about {store.card.item_noun} {store.item_ids[asked[0]]!r}" if asked else ""
    return DataError(
        f"a question of task {tasks[branch.task].name!r}{item} (row {branch.subject}) of {corpus} "
        f"takes {len(branch.tokens)} tokens, with {_end(tree, branch) - len(branch.tokens)} before "
        f"it though all of the history was dropped, and the model has {context_length} positions",
        remedy="take a model with more positions, give the task weight 0 in mixture.tasks, or "
        "compile the store with smaller budgets for the fields of its records",
    )


def _end(tree: Tree, branch: Branch) -> int:
    return len(tree.before(branch)) + len(branch.tokens)
