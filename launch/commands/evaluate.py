"""`brewhouse eval`: a model against baselines, task by task, with intervals."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from launch.console import out, print_json, print_table, say, say_next

EPILOG = (
    "Example: `brewhouse eval runs/quickstart`\n\n"
    "With instructions that training never saw: `brewhouse eval RUN --phrasing held_out`"
)


class Phase(StrEnum):
    """Which part of the split is asked about."""

    validation = "validation"
    test = "test"


class Phrasing(StrEnum):
    """Which instructions are used."""

    trained = "trained"
    held_out = "held_out"


def eval_command(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN|EXPORT", help="A run, a checkpoint or an export.")
    ],
    phase: Annotated[Phase, typer.Option(help="Part of the split to ask about.")] = Phase.test,
    phrasing: Annotated[
        Phrasing, typer.Option(help="Instructions that were trained on, or held out.")
    ] = Phrasing.trained,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; repeatable.")
    ] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option("--store", help="Token store; repeatable. Default: the run's."),
    ] = None,
    max_targets: Annotated[
        int | None, typer.Option(min=1, help="Targets of each task and corpus at most.")
    ] = None,
    max_title_targets: Annotated[
        int | None, typer.Option(min=1, help="The same for tasks that rank the whole catalog.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Fit and score the baselines.")
    ] = True,
    num_procs: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: every GPU, else two.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a model and its baselines on the same targets, and say what it beats.

    Writes RUN/evaluation/results.json (results-held_out.json for held-out phrasings).
    """
    from launch.evaluating import COLUMNS, evaluate_run, results_dict, table_rows
    from train.evaluation.results import summary_lines

    arguments = ["--phase", phase.value, "--phrasing", phrasing.value]
    for name in task or ():
        arguments += ["--task", name]
    for option, value in (
        ("--max-targets", max_targets),
        ("--max-title-targets", max_title_targets),
    ):
        if value is not None:
            arguments += [option, str(value)]
    if not baselines:
        arguments.append("--no-baselines")
    results = evaluate_run(
        run_dir, arguments, phrasing=phrasing.value, stores=store or (), num_procs=num_procs
    )
    if as_json:
        print_json(results_dict(results))
        return
    print_table(
        COLUMNS,
        table_rows(results),
        right=("n", "model", "untrained", "trivial", "best"),
        fold=("task", "metric", "best baseline"),
    )
    say("✓ the model is better beyond the paired 95% interval, ✗ it is not")
    say("")
    for line in summary_lines(results):
        out.print(line, markup=False, soft_wrap=True)
    say_next(f"brewhouse report {run_dir}", f"brewhouse distill {run_dir} --student sasrec")
