"""What an export says about its tasks: how each is phrased, and which tokens answer it."""

from collections.abc import Sequence
from typing import Any, Final

from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task
from data_pipeline.tasks.texts import instruction_text
from data_pipeline.tree import Branch, Tree

TASKS: Final = "tasks.json"
SCHEMA_VERSION: Final = 1


def task_sheet(store: TokenStore, tasks: Sequence[Task], trees: Sequence[Tree]) -> dict[str, Any]:
    """Every task with its phrasings, label words and ids, and a whole prompt as an example.

    Args:
        store: whose tokenizer and corpus the examples are of.
        tasks: the trained tasks, as `branch.task` indexes them.
        trees: questions of an evaluation; the first of each task becomes its example.
    """
    examples: dict[int, tuple[Tree, Branch]] = {}
    for tree in trees:
        for branch in tree.branches:
            examples.setdefault(branch.task, (tree, branch))
    return {
        "schema_version": SCHEMA_VERSION,
        "corpus": store.card.corpus_name,
        "item_noun": store.card.item_noun,
        "prompt": (
            "trunk (profile and dated history) and branch (instruction, question, answer cue) in a "
            "row; a label task is answered by the next token, a title or text task by a line"
        ),
        "tasks": {
            task.name: _entry(store, task, examples.get(number))
            for number, task in enumerate(tasks)
        },
    }


def _entry(store: TokenStore, task: Task, found: tuple[Tree, Branch] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "code": task.code,
        "family": task.family,
        "kind": task.kind,
        "metric": task.metric,
        "history": task.history,
        "instructions": [
            instruction_text(task, number, store.card.item_noun).strip()
            for number in range(len(task.instructions))
        ],
        "labels": list(task.labels),
        "label_token_ids": [],
        "example": None,
    }
    if found is None:
        return entry
    tree, branch = found
    prompt = [int(token) for token in (*tree.before(branch), *branch.tokens)]
    prompt = prompt[: len(prompt) - len(branch.answer) + 1]
    entry["label_token_ids"] = [int(token) for token in branch.choices]
    entry["labels"] = [store.encoder.decode([c]).strip() for c in branch.choices.tolist()]
    entry["example"] = {
        "prompt": store.encoder.decode(prompt),
        "trunk_tokens": len(tree.before(branch)),
        "prompt_tokens": len(prompt),
        "answer": store.encoder.decode(branch.answer),
    }
    return entry


def student_sheet(*, padding_item: int, max_length: int) -> dict[str, Any]:
    """The same for a sequence student, which answers one question."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tasks": {
            "next_item": {
                "kind": "scores",
                "metric": "ndcg@10",
                "input": {
                    "name": "items",
                    "dtype": "int64",
                    "shape": ["batch", "length"],
                    "max_length": max_length,
                    "padding_item": padding_item,
                    "order": "rows of catalog.json, oldest first, newest in the last column, padded"
                    " on the left with padding_item; an empty history is one padding item",
                },
                "output": {
                    "name": "scores",
                    "dtype": "float32",
                    "shape": ["batch", "n_items"],
                    "meaning": "logit of every row of catalog.json as the next item",
                },
            }
        },
    }
