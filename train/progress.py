"""How far long work is and when it ends: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)


class ProgressView(Protocol):
    """Something that shows how far work has come."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps done; the note says how it goes."""
        ...

    def close(self) -> None:
        """The work is over."""
        ...


class NoProgress:
    """Shows nothing: for ranks that stay silent and for tests."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count nothing."""

    def close(self) -> None:
        """Nothing to end."""


class ProgressBar:
    """A bar with elapsed and remaining time."""

    def __init__(self, total: int, description: str, *, done: int = 0) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(description, total=total, completed=done, note="")
        self._progress.start()

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps done."""
        self._progress.update(self._task, advance=steps)
        if note:
            self._progress.update(self._task, note=note)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


class ProgressLines:
    """A log line with the remaining time, at most one per interval."""

    def __init__(
        self,
        total: int,
        description: str,
        *,
        done: int = 0,
        every_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._description = total, description
        self._done = self._first = done
        self._every, self._clock = every_seconds, clock
        self._start = self._spoke = clock()
        self._note = ""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps done."""
        self._done += steps
        self._note = note or self._note
        if self._clock() - self._spoke >= self._every:
            self._speak()

    def close(self) -> None:
        """Say where the work ended."""
        self._speak()

    def _speak(self) -> None:
        self._spoke = now = self._clock()
        elapsed, made = now - self._start, self._done - self._first
        eta = duration(elapsed / made * (self._total - self._done)) if made else "unknown"
        log.info(
            "%s %d/%d, %s elapsed, eta %s%s",
            self._description,
            self._done,
            self._total,
            duration(elapsed),
            eta,
            f", {self._note}" if self._note else "",
        )


def show_progress(
    total: int, description: str, *, done: int = 0, silent: bool = False
) -> ProgressView:
    """The view that fits: a bar on a terminal, log lines elsewhere, nothing where silent."""
    if silent:
        return NoProgress()
    if sys.stderr.isatty():
        return ProgressBar(total, description, done=done)
    return ProgressLines(total, description, done=done)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
