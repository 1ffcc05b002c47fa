"""`brewhouse export`: folders that a serving engine loads, and their proofs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

DEFAULT = "write"


class _WriteByDefault(TyperGroup):
    """`export RUN --to merged` means `export write RUN --to merged`; `export check` is named."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        if not args or args[0] not in self.commands:
            args = [DEFAULT, *(args or ["--help"])]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_WriteByDefault,
    help="Write a run as a folder that others can load, or check such a folder again.",
)


@app.command(
    DEFAULT,
    epilog="Example: `brewhouse export runs/quickstart --to merged`\n\n"
    "Prove one again: `brewhouse export check runs/quickstart/exports/merged`",
)
def write_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run or checkpoint.")],
    to: Annotated[str, typer.Option("--to", help="merged, adapter or onnx.")],
) -> None:
    """Export."""
    raise NotImplementedError(run_dir, to)


@app.command("check", epilog="Example: `brewhouse export check runs/quickstart/exports/merged`")
def check_command(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="An export.")],
) -> None:
    """Check."""
    raise NotImplementedError(folder)
