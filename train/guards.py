"""What keeps a long run alive: bad steps are skipped, a request to stop ends in a checkpoint."""

from __future__ import annotations

import logging
import math
import signal
import statistics
from collections import deque
from collections.abc import Iterable
from types import FrameType
from typing import Literal

log = logging.getLogger(__name__)

Verdict = Literal["good", "spike", "not finite"]


class LossGuard:
    """Judges a step by its loss, against the median of the good steps before it.

    A median does not move for one outlier, as a mean would. Every rank judges the same global
    loss, so all come to the same verdict.

    Args:
        factor: a loss above this many medians is a spike; 0 judges nothing but finiteness.
        window: good steps that the median is taken over; no spike is seen before it is full.
        limit: bad steps in a row that are skipped; one more and the run has to stop.
    """

    def __init__(
        self, *, factor: float, window: int, limit: int, losses: Iterable[float] = ()
    ) -> None:
        self.factor = factor
        self.limit = limit
        self.losses: deque[float] = deque(losses, maxlen=max(1, window))
        self.bad_in_a_row = 0

    def judge(self, loss: float) -> Verdict:
        """What to think of a step with this loss; nothing is remembered yet."""
        if not math.isfinite(loss):
            return "not finite"
        full = len(self.losses) == self.losses.maxlen
        if self.factor > 0 and full and loss > self.factor * statistics.median(self.losses):
            return "spike"
        return "good"

    def remember(self, loss: float, *, applied: bool) -> None:
        """Count the step: its loss joins the window where it was applied."""
        if applied:
            self.losses.append(loss)
            self.bad_in_a_row = 0
        else:
            self.bad_in_a_row += 1

    @property
    def exhausted(self) -> bool:
        """Whether more bad steps came in a row than may be skipped."""
        return self.bad_in_a_row > self.limit


class StopRequest:
    """Turns SIGTERM and SIGINT into a wish that the loop asks for between steps.

    A second SIGINT interrupts at once. Schedulers and launchers may repeat SIGTERM, so a second
    one changes nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def wanted(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        log.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)
        self.signal = number
