"""What a task is: one question asked of a corpus."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

Tier = Literal["T1", "T2a", "T2b", "T2c"]
Kind = Literal["label", "choice", "title", "text"]
History = Literal["full", "cold", "none", "item", "anonymous", "demonstrations"]

NEVER_TRAINED: Final[tuple[History, ...]] = ("anonymous", "demonstrations")
"""Histories of which a mixture makes no trees."""

Rows = Sequence[int] | NDArray[np.integer[Any]]

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
    """`label`: words of `labels`; `choice`: letters; `title`: the title of an item; `text`: a short
    text of its own, one line."""
    labels: ClassVar[tuple[str, ...]] = YES_NO
    metric: ClassVar[str]
    """The headline metric, by its name in `train.evaluation.metrics`."""
    baselines: ClassVar[tuple[str, ...]] = ("majority",)
    """Names in `train.evaluation.baselines`; the trivial one first."""
    history: ClassVar[History] = "full"
    """What the trunk holds: the history, its first few events, the profile only, nothing; for
    evaluation only also the history without the profile, or labelled rows of other users."""
    next_only: ClassVar[bool] = False
    """Evaluation asks about the event that follows the history at once, and no later one."""
    asks_what_was_shown: ClassVar[bool] = False
    """Its events are items that were shown together: an evaluation may ask about whole requests."""
    only_if_named: ClassVar[bool] = False
    """No evaluation asks it unless its name is given."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What a corpus must have; `data_pipeline.tasks.needs` knows the words."""
    constants: ClassVar[tuple[str, ...]] = ()
    """Fixed texts of the question, each a piece of its own."""
    instructions: ClassVar[tuple[str, ...]]
    """Phrasings that are trained on."""
    held_out_instructions: ClassVar[tuple[str, ...]]
    """Phrasings that only evaluation uses."""

    @property
    def is_written(self) -> bool:
        """Whether answers are texts, a title or a line of one's own, rather than one token each."""
        return self.kind in ("title", "text")

    @abc.abstractmethod
    def ask(self, view: View, subject: int) -> Question | None:
        """Ask about a subject: an event row of the window, or one of the task's own `subjects`.

        Returns None where the question does not apply to this subject.
        """

    def subjects(self, view: View) -> Rows | None:
        """Return the rows that may be asked about in the view's phase, of whichever table they are.

        None for the events of the window. A task with history `item` or `demonstrations` knows no
        window and always says its rows itself: of items, judgements, tags...
        """
        return None

    def demonstrations(
        self, view: View, subjects: Sequence[int], n: int
    ) -> Sequence[tuple[int, ...]]:
        """Return up to n labelled rows to learn the question from, nearest first; fewer are a part.

        Each row is its pieces. None is about a user who is asked about, and all lie in training
        time. For tasks with history `demonstrations`.
        """
        return ()


def own_subjects(task: Task, view: View) -> Rows:
    """Return the subjects of a task that asks about no events."""
    subjects = task.subjects(view)
    assert subjects is not None, f"task {task.name} asks without a user, so it names its subjects"
    return subjects
