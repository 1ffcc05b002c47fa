"""An assembler in a process of its own, at the other end of a pipe.

    python -m train.assembly_process FD

A fresh interpreter, neither forked from one that holds CUDA, NCCL and threads, nor one that imports
the run's main module again, as multiprocessing's would: it needs no model. Each end sees at once
when the other is gone, for nobody else holds the pipe: a killed process is an error, and none
outlives its run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from data_pipeline.packing import MicroBatch
from train.assembly import Assembler, Recipe
from train.errors import TrainingError

_GRACE_SECONDS: Final = 5.0
"""How long after its end of the pipe a process may take to be gone."""


class AssemblyProcess:
    """Assembles in another process. Calls wait for it; one thread at a time may call.

    Args:
        recipe: what to assemble.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._ours, theirs = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "train.assembly_process", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env=environment,
        )
        theirs.close()
        self._ours.send(recipe)

    def measure(self, step: int, trees: Sequence[int]) -> NDArray[np.int64]:
        """The `Size` of each tree; shape [N, 5]."""
        return cast("NDArray[np.int64]", self._call("measure", step, trees))

    def pack(self, step: int, parts: Sequence[Sequence[int]]) -> list[MicroBatch]:
        """A micro-batch of the trees of each part."""
        return cast("list[MicroBatch]", self._call("pack", step, parts))

    def _call(self, method: str, *arguments: object) -> object:
        """What the method returns, or raises, over there.

        Raises:
            TrainingError: the process is gone.
        """
        try:
            self._ours.send((method, arguments))
            error, answer = self._ours.recv()
        except (EOFError, OSError):
            raise TrainingError(self._obituary()) from None
        if error is not None:
            raise error
        return answer

    def _obituary(self) -> str:
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        how = "closed its pipe" if code is None else f"left with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        return (
            f"the process {self._process.pid}, which assembles micro-batches, {how}. SIGKILL is "
            "most often the machine's memory running out: lower dataloader_num_workers. "
            "resume_from_checkpoint=true goes on from the last checkpoint"
        )

    def close(self) -> None:
        """End the process. It holds nothing that could be lost."""
        self._process.kill()
        self._process.wait()
        self._ours.close()


def serve(connection: Connection[Any, Any]) -> None:
    """Answer calls until the other end is gone."""
    try:
        assembler: Assembler | None = None
        recipe: Recipe = connection.recv()
        while True:
            method, arguments = connection.recv()
            error, answer = None, None
            try:
                assembler = assembler or recipe.open()
                answer = getattr(assembler, method)(*arguments)
            except Exception as raised:  # raised again over there, whatever it is
                raised.add_note(f"In process {os.getpid()}:\n{traceback.format_exc()}")
                error = raised
            connection.send((error, answer))
    except (EOFError, OSError):
        return


def main() -> None:
    """Serve the pipe that was inherited under the number given."""
    # A terminal or a scheduler signals the whole group. The run still takes its last step then, and
    # ends this process, or is gone, and its end of the pipe with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
