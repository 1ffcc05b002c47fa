"""`brewhouse quickstart`: the whole flow on public data, by the commands a person types."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example: `brewhouse quickstart`, and `brewhouse quickstart --fresh` to start over"


def quickstart_command(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what it wrote, start over.")
    ] = False,
) -> None:
    """Fetch, audit, build, train, evaluate, distil, export and report on four public corpora.

    Prints each command before it runs it. Finished stages are recognised and skipped, an
    interrupted one continues. Writes data/ and runs/quickstart in the current folder.
    """
    from launch.quickstart import run_quickstart

    run_quickstart(fresh=fresh)
