"""Another library in an environment of its own: a script that answers a line with a line.

It stays alive between questions, so that it is measured in turns with ours. The script is run by
that environment's Python and imports nothing of this project. It writes one JSON line when it is
ready and one for every line that it reads; what libraries print must not reach its standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

SCRIPTS = Path(__file__).parent


class PeerError(RuntimeError):
    """The script of the other environment ended early or said something else than JSON."""


class Peer:
    """A running script.

    Args:
        python: the Python of the environment in which the library is installed.
        script: file name beside this module.
        settings: written to `settings.json` in `scratch`, whose path is the script's argument.
        scratch: a folder for that file and the script's own log.

    Raises:
        PeerError: it did not start.
    """

    def __init__(self, python: Path, script: str, settings: dict[str, Any], scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        file = scratch / "settings.json"
        threads = torch.get_num_threads()
        file.write_text(json.dumps({**settings, "threads": threads}))
        self._script, self._python = script, python
        self._log = scratch / "log.txt"
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [str(python), str(SCRIPTS / script), str(file)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=scratch,
                    env=_own_environment(threads),
                )
        except (FileNotFoundError, PermissionError) as error:
            raise PeerError(
                f"{python} cannot be started ({error.strerror}): give the python of the "
                f"environment in which the other library is installed, such as ENV/bin/python"
            ) from error
        self.ready: dict[str, Any] = self._read()
        """What the script said of itself: versions and settings."""

    def ask(self, question: object = None) -> dict[str, Any]:
        """Send a line and wait for its answer.

        Raises:
            PeerError: there was none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("") from None
        return self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close its input, which ends it."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            raise self._failed(line) from None
        assert isinstance(answer, dict)
        return answer

    def _failed(self, line: str) -> PeerError:
        self._process.kill()
        self._process.wait()
        told = "\n".join(self._log.read_text().splitlines()[-15:])
        return PeerError(
            f"{self._script} under {self._python} said {line!r} instead of a JSON line; the end of "
            f"its output:\n{told}"
        )


def _own_environment(threads: int) -> dict[str, str]:
    """Ours without our modules on the path, and with as many threads as we use."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
