"""What a test registers does not outlive it."""

from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline import tasks
from train import plugins

ODD_ROW = """
from data_pipeline.tasks import Task, register_task
from data_pipeline.tree import Question


class OddRow(Task):
    name = "odd_row"
    code = "X01"
    family = "mine"
    metric = "auc"
    instructions = ("Is the row odd?",)
    held_out_instructions = ("Odd?",)

    def ask(self, view, subject):
        return Question(label=subject % 2, n_choices=2)


register_task(OddRow())
"""
"""A user's module with a task of their own."""


@contextmanager
def registries_restored() -> Iterator[None]:
    """Forget tasks and plugins that are registered meanwhile."""
    saved = [(registry, dict(registry)) for registry in (tasks._TASKS, plugins._loaded)]
    try:
        yield
    finally:
        for registry, content in saved:
            registry.clear()  # type: ignore[attr-defined]
            registry.update(content)  # type: ignore[attr-defined]
