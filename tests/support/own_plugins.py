"""What a test registers does not outlive it."""

from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline import tasks
from train import plugins


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
