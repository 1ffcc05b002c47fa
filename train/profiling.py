"""A switch for torch's profiler: a trace of a few steps, for chrome://tracing or Perfetto."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

log = logging.getLogger(__name__)


class StepProfiler:
    """Records the steps of a range.

    Args:
        steps: (start, stop): steps from start to before stop, the first step being 0; None records
            nothing.
        folder: where the trace goes.
        rank: of this process; every rank writes a file.
        step: steps done already.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, rank: int, *, step: int = 0
    ) -> None:
        self._start, self._stop = steps or (-1, -1)
        self._folder = folder
        self._rank = rank
        self._profile: torch.profiler.profile | None = None
        self.finished(step)

    def finished(self, step: int) -> None:
        """So many steps are done: begin or end recording."""
        if step == self._start:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities, profile_memory=True)
            self._profile.start()
        elif step == self._stop:
            self.close()

    def close(self) -> None:
        """End recording, where it goes on, and write the trace."""
        if self._profile is None:
            return
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"steps-{self._start}-{self._stop}-rank-{self._rank}.json"
        self._profile.export_chrome_trace(str(path))
        self._profile = None
        log.info("profile: %s", path)
