"""Where log records go: everything to the rank's own file, a person's share to the terminal."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TextIO

from transformers.utils import logging as transformers_logging

PACKAGES = ("data_pipeline", "modeling", "train")


class _Terminal(logging.StreamHandler[TextIO]):
    """Standard error as it is now: a progress bar puts itself in front of it while it runs."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def set_up_logs(run: Path, rank: int) -> None:
    """Send records to `RUN/logs/rank-N.log`; to the terminal those of rank 0, and all warnings.

    Code below says `log.info` and asks for no rank.
    """
    folder = run / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"rank-{rank}.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = _Terminal()
    terminal.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    terminal.setFormatter(
        logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[file, terminal], force=True)
    logging.captureWarnings(True)
    # peft asks transformers by a name that transformers has changed: nothing that we can mend.
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"transformers\.modeling_utils"
    )
    # One bar for every file that it writes.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)
