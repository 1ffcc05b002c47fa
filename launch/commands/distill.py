"""`brewhouse distill`: a small student out of a trained backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: `brewhouse distill runs/quickstart --student sasrec`"


def distill_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run or checkpoint.")],
    student: Annotated[str, typer.Option(help="Kind of student: sasrec.")] = "sasrec",
) -> None:
    """Distil a student from a run's backbone into RUN/students/NAME."""
    raise NotImplementedError(run_dir, student)
