"""How a task's words become text, and all fixed texts that a prompt can hold."""

from collections.abc import Iterable, Sequence
from typing import Final

from data_pipeline.tasks import Task
from data_pipeline.tasks.base import Kind
from data_pipeline.tasks.cues import ANSWER_CUE, OPTION, TEXT_CUE, TITLE_CUE

_CUES: Final[dict[Kind, str]] = {"title": TITLE_CUE, "text": TEXT_CUE}


def instruction_text(task: Task, phrasing: int, item_noun: str) -> str:
    """Return one phrasing of a task as a line. Held-out phrasings follow the trained ones."""
    phrasings = (*task.instructions, *task.held_out_instructions)
    return phrasings[phrasing].format(item=item_noun, items=f"{item_noun}s") + "\n"


def cue_of(task: Task) -> str:
    """Return the text behind which the answer stands."""
    return _CUES.get(task.kind, ANSWER_CUE)


def answer_texts(tasks: Iterable[Task], names: Iterable[str] = ()) -> list[str]:
    """Return every answer of these tasks that is one word, and these names, behind their cue."""
    labels = {label for task in tasks for label in task.labels}
    return [f"{ANSWER_CUE} {label}\n" for label in sorted(labels.union(names))]


def prompt_texts(tasks: Sequence[Task], item_noun: str) -> list[str]:
    """Return every fixed text of these tasks' prompts, for a tokenizer to be trained on.

    Phrasings that are held out of training are among them: they too shall be read as words.
    """
    labels = {label for task in tasks for label in task.labels}
    return [
        f"Questions about {item_noun}s.\nProfile: unknown\nHistory:\nExamples:\n",
        *(f"{cue_of(task)} " for task in tasks),
        *answer_texts(tasks),
        *(f"{label}: \n" for label in sorted(labels)),
        f"{OPTION} \n",
        *(f"{text} \n" for task in tasks for text in task.constants),
        *(
            instruction_text(task, phrasing, item_noun)
            for task in tasks
            for phrasing in range(len(task.instructions) + len(task.held_out_instructions))
        ),
    ]
