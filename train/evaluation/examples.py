"""A few prompts with the model's answers, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Tree
from train.evaluation.scores import TargetScores

MOST = 12


def pick_examples(
    store: TokenStore, tasks: Sequence[Task], trees: Sequence[Tree], scores: dict[str, TargetScores]
) -> list[dict[str, Any]]:
    """One target of each of the first tasks, with its whole prompt as the model reads it."""
    examples = []
    place = dict.fromkeys((task.name for task in tasks), 0)
    for tree in trees:
        for branch in tree.branches:
            task = tasks[branch.task]
            row, place[task.name] = place[task.name], place[task.name] + 1
            # The second target of a task: the first is often one of an empty history.
            if row == min(1, len(scores[task.name]) - 1):
                examples.append(_example(store, task, tree, branch, scores[task.name], row))
    order = {task.name: number for number, task in enumerate(tasks)}
    return sorted(examples, key=lambda example: order[example["task"]])[:MOST]


def _example(
    store: TokenStore, task: Task, tree: Tree, branch: Branch, scores: TargetScores, row: int
) -> dict[str, Any]:
    decode = store.encoder.decode
    prompt = branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]
    example = {
        "corpus": store.card.corpus_name,
        "task": task.name,
        "kind": task.kind,
        "prompt": decode(tree.trunk) + decode(prompt),
        "answer": decode(branch.answer).strip(),
        "label": branch.question.label,
    }
    if task.kind == "title":
        better, tied = int(scores.better_N[row]), int(scores.tied_N[row])
        return example | {"rank": better + 1 + tied / 2}
    if scores.texts is not None:
        return example | {"said": str(scores.texts.said_N[row])}
    n = int(scores.n_choices_N[row])
    return example | {
        "choices": [decode([choice]).strip() for choice in branch.choices.tolist()],
        "probabilities": [round(p, 6) for p in scores.probabilities_NK[row, :n].tolist()],
        "label_mass": round(float(scores.label_mass_N[row]), 6),
    }
