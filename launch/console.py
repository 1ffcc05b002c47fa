"""What a person sees: one console for results, one for everything else, and how errors are told.

Results go to standard output, progress, logs and errors to standard error, so that
`brewhouse ... --json | jq` works.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from rich.theme import Theme

PACKAGES = ("data_pipeline", "modeling", "train", "launch")

THEME = Theme(
    {
        "role.trunk": "cyan",
        "role.branch": "green",
        "role.answer": "bold black on yellow",
        "role.choices": "magenta",
        "role.heading": "bold underline",
        "role.note": "dim",
        "next": "bold cyan",
        "problem": "bold red",
    }
)


def _console(*, stderr: bool) -> Console:
    """A terminal has its own width; a pipe or file gets lines that need no wrapping."""
    console = Console(theme=THEME, highlight=False, stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    return console


out = _console(stderr=False)
err = _console(stderr=True)


def set_up_logging(*, debug: bool) -> None:
    """Send the packages' log records to standard error, warnings of everybody else too."""
    handler: logging.Handler = RichHandler(console=err, show_path=debug, show_time=False)
    layout = "%(message)s"
    if not err.is_terminal:  # a log file is no place for columns and wrapped lines
        handler, layout = logging.StreamHandler(sys.stderr), "%(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(layout))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.INFO)


def print_json(value: Any) -> None:
    """Print one JSON object and nothing else on standard output.

    NaN has no JSON spelling, so a metric that could not be computed becomes null.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str, allow_nan=False)
    sys.stdout.write(text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def say(text: str) -> None:
    """Print a line of result for a person."""
    out.print(text, soft_wrap=True)


def say_next(*commands: str) -> None:
    """Tell what to type next: every command ends with this."""
    err.print()
    err.print("next:", style="next")
    for command in commands:
        err.print(f"  {escape(command)}", soft_wrap=True)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    fold: Sequence[str] = (),
) -> None:
    """Print rows under column names.

    Args:
        columns: their names.
        rows: a cell per column.
        right: columns aligned to the right.
        fold: columns that may be broken over lines on a narrow terminal; empty: all.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=bool(fold) and column not in fold,
        )
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    out.print(table)


@contextmanager
def standard_output_as_error() -> Iterator[None]:
    """Send standard output to standard error, that of child processes too.

    Launchers and libraries write notices to standard output; a result there must stand alone.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def is_meant_for_people(error: BaseException) -> bool:
    """Whether the error's own text tells a user what to do.

    Error classes that our packages define do (DataError, ConfigError, CheckpointError, ...), and
    so does a ValueError that our own code raises: `assert` is for our mistakes. A ValueError from
    inside a library keeps its traceback. Full disks and missing rights are nobody's bug.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        return True
    names = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(error).__mro__]
    if any(top in PACKAGES and name.endswith("Error") for top, name in names):
        return True
    # pydantic checks the values of our own settings, and says which is wrong.
    if names[0][1] == "ValidationError" and names[0][0].startswith("pydantic"):
        return True
    return isinstance(error, ValueError) and _raised_by(error) in PACKAGES


def _raised_by(error: BaseException) -> str:
    """Top-level package of the code that raised the error."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "") if last is not None else ""
    return str(module).partition(".")[0]


def print_error(error: BaseException, *, debug: bool) -> None:
    """Print the error as one readable message, or with its traceback under `--debug`."""
    if debug or not is_meant_for_people(error):
        err.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True, end="")
        if not debug:
            err.print("This looks like a mistake of brewhouse, not of yours: please report it.")
        return
    name = type(error).__name__
    err.print(f"[problem]{escape(name)}:[/] {escape(str(error))}", soft_wrap=True)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        err.print("The disk is full. Free some space and run the same command again.")
    err.print("(add --debug for the traceback)", style="dim")
