"""The frozen list of questions that are never trained on, by hashes of their phrasings.

A task says its tier itself; this list keeps a change of a tier, or a question copied under another
name, from going unseen. `held_out_tasks.json` changes only together with the catalogue:

    UPDATE_HELD_OUT=1 pytest tests/data_pipeline/test_tasks_held_out.py
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

from data_pipeline.tasks.base import NEVER_TRAINED, Task

FROZEN_FILE: Final = Path(__file__).with_name("held_out_tasks.json")


def frozen_list(tasks: Iterable[Task]) -> dict[str, Any]:
    """Return what the file should hold: name -> code, tier and hashes of all phrasings."""
    return {
        task.name: {"code": task.code, "tier": task.tier, "phrasings": _hashes(task)}
        for task in sorted(tasks, key=lambda task: (task.code, task.name))
        if task.tier != "T1"
    }


def held_out_because(task: Task) -> str | None:
    """Return why a task may not be trained on, as the end of a sentence; None where it may."""
    frozen = _frozen()
    if task.tier != "T1":
        return f"is {task.tier}: it is for evaluation and never trained on"
    if task.history in NEVER_TRAINED:
        return f"has history {task.history!r}: no training shows that"
    if task.name in frozen:
        return "stands in the frozen list of held-out tasks and is never trained on"
    owners = {text: name for name, entry in frozen.items() for text in entry["phrasings"]}
    own = [owners[text] for text in _hashes(task) if text in owners]
    if own:
        return f"has a phrasing of {own[0]!r}, which is held out and never trained on"
    return None


@cache
def _frozen() -> dict[str, Any]:
    entries: dict[str, Any] = json.loads(FROZEN_FILE.read_text(encoding="utf-8"))
    return entries


def _hashes(task: Task) -> list[str]:
    """One hash per phrasing, whatever its case and spacing."""
    phrasings = (*task.instructions, *task.held_out_instructions)
    texts = (" ".join(phrasing.lower().split()) for phrasing in phrasings)
    return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
