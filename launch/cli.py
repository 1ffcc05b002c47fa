"""The `brewhouse` command: what a person types, and how errors are told.

Nothing heavy is imported here or at the top of a command module, so that `brewhouse --help`
answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from launch.commands import (
    bench,
    config,
    data,
    distill,
    evaluate,
    export,
    quickstart,
    report,
    tasks,
    train,
)
from launch.console import out, print_error, set_up_logging


class _InOrderOfUse(TyperGroup):
    """Lists commands in the order in which a user needs them."""

    ORDER = (
        "quickstart", "data", "tasks", "train", "eval", "distill", "export", "report",
        "config-schema", "bench",
    )  # fmt: skip

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=self.ORDER.index)


app = typer.Typer(
    name="brewhouse",
    cls=_InOrderOfUse,
    help="Train one language model on every ranking, recommendation and search question of a "
    "product, and export what can be served.",
    epilog="Start: `brewhouse quickstart` (MovieLens-100K, minutes on two cores), or "
    "`brewhouse data import --help` for your own logs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data.app, name="data")
app.add_typer(tasks.app, name="tasks")
app.command("train", epilog=train.EPILOG)(train.train_command)
app.command("eval", epilog=evaluate.EPILOG)(evaluate.eval_command)
app.command("distill", epilog=distill.EPILOG)(distill.distill_command)
app.add_typer(export.app, name="export")
app.command("report", epilog=report.EPILOG)(report.report_command)
app.command("config-schema", epilog="Example: `brewhouse config-schema > brewhouse.schema.json`")(
    config.config_schema_command
)
app.add_typer(bench.app, name="bench")
app.command("quickstart", epilog=quickstart.EPILOG)(quickstart.quickstart_command)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"brewhouse {version('brewhouse')}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug logs (any position).")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Module or .py file with tasks or sources of your own. Repeatable.",
        ),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    """Options that hold for every command."""
    set_up_logging(debug=debug)
    from train.plugins import load_plugins

    load_plugins(plugin or ())


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 only on success, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        # An option of the root, accepted wherever a person adds it to a command that failed.
        arguments = ["--debug", *(word for word in arguments if word != "--debug")]
    try:
        app(arguments, prog_name="brewhouse")
    except Exception as error:
        print_error(error, debug=debug)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
