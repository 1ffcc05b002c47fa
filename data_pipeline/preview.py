"""What the model sees, as spans of text with their role; whoever prints it chooses the colours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Tree

Role = Literal["heading", "trunk", "branch", "answer", "choices", "note"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text and what it is."""

    text: str
    role: Role


def render_tree(
    tree: Tree, store: TokenStore, tasks: Sequence[Task], *, with_ids: bool = False
) -> list[Span]:
    """Return a tree as text, decoded from exactly the ids that the model is fed."""
    return list(_tree(tree, store, tasks, with_ids))


def _tree(tree: Tree, store: TokenStore, tasks: Sequence[Task], with_ids: bool) -> Iterator[Span]:
    supervised = tree.trunk_labels.targets
    note = f", {supervised} supervised places along it" if supervised else ""
    yield Span(f"trunk · {len(tree.trunk)} tokens{note}\n", "heading")
    yield Span(store.encoder.decode(tree.trunk), "trunk")
    if with_ids:
        yield Span(f"ids {tree.trunk.tolist()}\n", "note")
    for number, branch in enumerate(tree.branches, start=1):
        yield from _branch(number, branch, store, tasks[branch.task], with_ids)


def _branch(
    number: int, branch: Branch, store: TokenStore, task: Task, with_ids: bool
) -> Iterator[Span]:
    decode = store.encoder.decode
    fed_answers = len(branch.answer) - 1
    prompt = branch.tokens[: len(branch.tokens) - fed_answers]
    held_out = branch.phrasing >= len(task.instructions)
    phrasing = "held-out phrasing" if held_out else f"phrasing {branch.phrasing + 1}"
    heading = f"{task.name} ({task.code}) · {phrasing} · {len(branch.tokens)} tokens"
    if branch.attach is not None:
        heading += f" behind the trunk's first {branch.attach}"
    yield Span(f"\nbranch {number} · {heading}\n", "heading")
    yield Span(decode(prompt), "branch")
    yield Span(decode(branch.answer), "answer")
    if len(branch.choices):
        words = [decode([choice]).strip() for choice in branch.choices]
        yield Span(f"\nout of {' '.join(words)}", "choices")
    yield Span("\n", "branch")
    if with_ids:
        yield Span(
            f"ids {branch.tokens.tolist()} -> {branch.answer.tolist()}"
            f" of {branch.choices.tolist()}\n",
            "note",
        )
