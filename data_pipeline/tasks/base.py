"""What a task is: one question asked of a corpus."""

import abc
from typing import ClassVar, Literal

from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

Tier = Literal["T1", "T2a", "T2b", "T2c"]
Kind = Literal["label", "choice", "title"]
History = Literal["full", "cold", "none", "item"]

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
YES_NO = ("No", "Yes")
"""Index 1 is the positive class."""


class Task(abc.ABC):
    """One question, with its label space, metric and several phrasings.

    A task is stateless. It looks at a corpus only through a `View`, which shows it nothing later
    than the window that it may ask about. Instructions may use `{item}` and `{items}`, the
    corpus's own word for an item.
    """

    name: ClassVar[str]
    code: ClassVar[str]
    """Number in the catalogue of tasks, as in `T01`."""
    family: ClassVar[str]
    tier: ClassVar[Tier] = "T1"
    """T1 is trained; T2a is an unseen question, T2b an unseen corpus, T2c both: never trained."""
    kind: ClassVar[Kind] = "label"
    """`label`: words of `labels`; `choice`: letters; `title`: the text of an item."""
    labels: ClassVar[tuple[str, ...]] = YES_NO
    metric: ClassVar[str]
    """The headline metric, by its name in `train.evaluation.metrics`."""
    baselines: ClassVar[tuple[str, ...]] = ("majority",)
    """Names in `train.evaluation.baselines`; the trivial one first."""
    history: ClassVar[History] = "full"
    """What the trunk holds: the history, its first few events, the profile only, or nothing."""
    next_only: ClassVar[bool] = False
    """Evaluation asks about the event that follows the history at once, and no later one."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What a corpus must have: `values`, `item.FIELD`, `user.*` or `titles`."""
    constants: ClassVar[tuple[str, ...]] = ()
    """Fixed texts of the question, each a piece of its own."""
    instructions: ClassVar[tuple[str, ...]]
    """Phrasings that are trained on."""
    held_out_instructions: ClassVar[tuple[str, ...]]
    """Phrasings that only evaluation uses."""

    @abc.abstractmethod
    def ask(self, view: View, subject: int) -> Question | None:
        """Ask about a subject: an event row of the window, or an item row for item questions.

        Returns None where the question does not apply to this subject.
        """

    def item_subjects(self, view: View) -> list[int]:
        """Return the item rows that may be asked about; for tasks with history `item` only."""
        raise AssertionError(f"task {self.name} asks about events")
