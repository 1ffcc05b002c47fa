"""`brewhouse eval`: a model against baselines, task by task, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.console import out, print_json, print_table, say, say_next

if TYPE_CHECKING:
    from train.evaluation.results import Results

EPILOG = (
    "Example: `brewhouse eval runs/quickstart`\n\n"
    "With instructions that training never saw: `brewhouse eval RUN --phrasing held_out`\n\n"
    "Two runs on the same targets: `brewhouse eval RUN --against OTHER`\n\n"
    "A curve: `brewhouse eval RUN --curve shots --task like`\n\n"
    "A curve over runs: `brewhouse eval SMALL MIDDLE LARGE --over parameters`"
)


class Phase(StrEnum):
    """Which part of the split is asked about."""

    validation = "validation"
    test = "test"


class Over(StrEnum):
    """What runs differ in."""

    parameters = "parameters"
    targets = "targets"
    tokens = "tokens"
    users = "users"


class Phrasing(StrEnum):
    """Which instructions are used."""

    trained = "trained"
    held_out = "held_out"


Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN|EXPORT", help="A run, a checkpoint or an export; several with --over."
    ),
]
CurveNames = Annotated[
    list[str] | None,
    typer.Option(
        "--curve",
        help="Measure a curve instead: shots, context, ladder, cold_users, cold_items, months, "
        "phrasing, many_shot or summary; repeatable.",
    ),
]
Other = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|FILE",
        help="Compare with another evaluation of the same targets; both must have been run.",
    ),
]
OverWhat = Annotated[
    Over | None,
    typer.Option(
        help="Put several runs, evaluated before on the same targets, on a curve over what "
        "they differ in."
    ),
]


def eval_command(
    run_dirs: Runs,
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
        int | None, typer.Option(min=1, help="The same for answers that are titles or texts.")
    ] = None,
    whole_impressions: Annotated[
        bool,
        typer.Option(
            "--whole-impressions",
            help="Ask `click` about all that was shown in a request, as MIND's metrics count.",
        ),
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Fit and score the baselines.")
    ] = True,
    curve: CurveNames = None,
    against: Other = None,
    over: OverWhat = None,
    baseline_trials: Annotated[
        int | None,
        typer.Option(min=1, help="Settings that each sequence baseline tries on validation."),
    ] = None,
    num_procs: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: every GPU, else two.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a model and its baselines on the same targets, and say what it beats.

    Writes RUN/evaluation/results.json (results-held_out.json for held-out phrasings), with every
    prediction beside it; curve-NAME.json for a curve; against-NAME.json for a comparison. A curve
    over runs is written in the run named last.
    """
    from launch.evaluating import evaluate_run

    if over is not None:
        if curve or against is not None:
            raise typer.BadParameter("--over reads results; it goes with no --curve or --against")
        _curve_over(run_dirs, over.value, phrasing.value, as_json=as_json)
        return
    if len(run_dirs) > 1:
        raise typer.BadParameter("several runs are compared: --over parameters, or A --against B")
    (run_dir,) = run_dirs
    if against is not None:
        if curve:
            raise typer.BadParameter("--against compares results; it has no curves")
        _compare(run_dir, against, phrasing.value, as_json=as_json)
        return
    arguments = ["--phase", phase.value, "--phrasing", phrasing.value]
    for name in task or ():
        arguments += ["--task", name]
    for option, value in (
        ("--max-targets", max_targets),
        ("--max-title-targets", max_title_targets),
        ("--baseline-trials", baseline_trials),
    ):
        if value is not None:
            arguments += [option, str(value)]
    if whole_impressions:
        arguments.append("--whole-impressions")
    if not baselines:
        arguments.append("--no-baselines")
    found = evaluate_run(
        run_dir,
        arguments,
        phrasing=phrasing.value,
        curves=curve or (),
        stores=store or (),
        num_procs=num_procs,
    )
    if curve:
        _tell_curves(found, run_dir, as_json=as_json)
    else:
        _tell(found[0], run_dir, as_json=as_json)


def _tell(results: Results, run_dir: Path, *, as_json: bool) -> None:
    from launch.eval_tables import COLUMNS, shown, table_rows
    from launch.report_results import TIER_COLUMNS, tier_rows
    from train.evaluation.results import summary_lines

    if as_json:
        print_json(dataclasses.asdict(results))
        return
    fold = ("task", "metric", "best baseline")
    print_table(COLUMNS, table_rows(results), right=shown(COLUMNS), fold=fold)
    say("✓ the model is better beyond the paired 95% interval, ✗ it is not")
    say("")
    print_table(TIER_COLUMNS, tier_rows(results), right=TIER_COLUMNS[2:], fold=("tier",))
    say("")
    for line in summary_lines(results):
        out.print(line, markup=False, soft_wrap=True)
    say_next(f"brewhouse report {run_dir}", f"brewhouse distill {run_dir} --student sasrec")


def _tell_curves(curves: Sequence[Results], run_dir: Path, *, as_json: bool) -> None:
    from launch.eval_tables import CURVE_COLUMNS, curve_lines, curve_rows, shown

    if as_json:
        print_json({"curves": [dataclasses.asdict(results) for results in curves]})
        return
    for results in curves:
        assert results.curve is not None, "a curve"
        say(f"{results.curve.name}: x is {results.curve.x_label}")
        right, fold = shown(CURVE_COLUMNS), ("task", "metric", "best baseline")
        print_table(CURVE_COLUMNS, curve_rows(results), right=right, fold=fold)
        for line in curve_lines(results):
            out.print(line, markup=False, soft_wrap=True)
        say("")
    say_next(f"brewhouse report {run_dir}")


def _curve_over(runs: Sequence[Path], over: str, phrasing: str, *, as_json: bool) -> None:
    from launch.evaluating import curve_over_runs

    results, file = curve_over_runs(runs, over, phrasing=phrasing)
    _tell_curves([results], runs[-1], as_json=as_json)
    if not as_json:
        say(f"Written to {file}")


def _compare(run_dir: Path, against: Path, phrasing: str, *, as_json: bool) -> None:
    from launch.eval_tables import AGAINST_COLUMNS, against_lines, against_rows, shown
    from launch.evaluating import compare_runs

    comparison, file = compare_runs(run_dir, against, phrasing=phrasing)
    if as_json:
        print_json(dataclasses.asdict(comparison))
        return
    right, fold = shown(AGAINST_COLUMNS), ("task", "metric", "verdict")
    print_table(AGAINST_COLUMNS, against_rows(comparison), right=right, fold=fold)
    for line in against_lines(comparison):
        out.print(line, markup=False, soft_wrap=True)
    say(f"Written to {file}")
    say_next(f"brewhouse report {run_dir}")
