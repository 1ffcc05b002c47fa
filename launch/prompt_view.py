"""Prompts on the terminal, in colour: trunk, branches, labels and tokens as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from launch.console import THEME, out

if TYPE_CHECKING:
    from data_pipeline.preview import Span
    from data_pipeline.store import TokenStore
    from data_pipeline.tasks.base import Task
    from data_pipeline.tree import Tree


def print_tree(
    tree: Tree, store: TokenStore, tasks: Sequence[Task], *, tokens: bool = False
) -> None:
    """Print one tree; with `tokens` also the ids that it is fed as."""
    from data_pipeline.preview import render_tree

    out.print(coloured(render_tree(tree, store, tasks, with_ids=tokens)), soft_wrap=True)


def coloured(spans: Sequence[Span]) -> Text:
    """Spans as one text, each in the style of its role."""
    text = Text()
    for span in spans:
        style = f"role.{span.role}"
        text.append(span.text, style=style if style in THEME.styles else "")
    return text


def tree_dict(tree: Tree, store: TokenStore, tasks: Sequence[Task]) -> dict[str, Any]:
    """One tree for machines: texts, ids and answers."""
    decode = store.encoder.decode
    return {
        "corpus": store.card.corpus_name,
        "user": store.user_ids[tree.moment.user] if tree.moment.user >= 0 else None,
        "trunk": {"text": decode(tree.trunk), "tokens": tree.trunk.tolist()},
        "trunk_targets": tree.trunk_labels.targets,
        "branches": [
            {
                "task": tasks[branch.task].name,
                "text": decode(branch.tokens),
                "tokens": branch.tokens.tolist(),
                "behind_trunk_tokens": len(tree.before(branch)),
                "answer": decode(branch.answer),
                "answer_tokens": branch.answer.tolist(),
                "choices": [decode([choice]) for choice in branch.choices.tolist()],
                "weight": branch.weight,
            }
            for branch in tree.branches
        ],
    }
