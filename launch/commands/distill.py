"""`brewhouse distill`: a small student out of a trained backbone."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from launch.console import print_json, print_table, say, say_next, standard_output_as_error

EPILOG = "Example: `brewhouse distill runs/quickstart --student sasrec`"


class Student(StrEnum):
    """What a backbone can be distilled into."""

    sasrec = "sasrec"


class Objective(StrEnum):
    """How the student follows its teacher."""

    listwise_kl = "listwise_kl"
    dllm2rec = "dllm2rec"


def distill_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run: the teacher.")],
    student: Annotated[Student, typer.Option(help="Kind of student.")] = Student.sasrec,
    store: Annotated[
        Path | None, typer.Option("--store", help="Token store. Default: the run's.")
    ] = None,
    objective: Annotated[
        Objective, typer.Option(help="How the student follows its teacher.")
    ] = Objective.dllm2rec,
    weight: Annotated[
        float | None, typer.Option(min=0, help="Of the teacher, beside the next-item loss.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the sequences.")] = None,
    max_moments: Annotated[
        int | None, typer.Option(min=1, help="Moments that the teacher is asked about.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the student's weights and batches.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a student that is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Distil a student from a run's backbone, and say whether the teacher helped.

    Writes RUN/students/NAME; the same student is fitted without the teacher for comparison.
    """
    from train.distill import METRICS, distill, parse_job

    words = ["--run", str(run_dir), "--objective", objective.value]
    options = {
        "--store": store,
        "--weight": weight,
        "--epochs": epochs,
        "--max-moments": max_moments,
        "--seed": seed,
    }
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    if overwrite:
        words.append("--overwrite")
    with standard_output_as_error():
        folder = distill(parse_job(words))
    card = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if as_json:
        print_json({"folder": str(folder), **card})
        return
    rows = [
        (phase, side.replace("_", " "), *(f"{value:.4f}" for value in card[phase][side].values()))
        for phase in ("validation", "test")
        if phase in card
        for side in ("without_teacher", "with_teacher")
    ]
    print_table(("phase", f"{student.value}", "ndcg@10", "hr@10"), rows)
    say(f"Student in {folder}: {card['verdict']}.")
    say_next(f"brewhouse export {run_dir} --to onnx", f"brewhouse report {run_dir}")
