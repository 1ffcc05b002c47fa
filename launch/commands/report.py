"""`brewhouse report`: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.console import err, print_json, say, say_next

EPILOG = "Example: `brewhouse report runs/quickstart`"


def report_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    audit_file: Annotated[
        Path | None,
        typer.Option("--audit", help="audit.json of the corpus, if it is not found by itself."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write RUN/report.html (self-contained) and RUN/report.md out of the files of a run."""
    from launch.report import write_report

    report = write_report(run_dir, audit_file=audit_file)
    if as_json:
        print_json(report)
        return
    say(f"Report: {report['html']} (and {report['markdown']})")
    for note in report["notes"]:
        err.print(f"  {note}", style="dim", markup=False, soft_wrap=True)
    say_next(f"open {report['html']} in a browser")
