"""`brewhouse export`: folders that a serving engine loads, and their proofs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from launch.console import err, print_json, say, say_next, standard_output_as_error

if TYPE_CHECKING:
    from train.proof import ProofResult

WRITE = "write"


class _WriteUnlessNamed(TyperGroup):
    """`export RUN --to merged` stands for `export write RUN --to merged`; `check` is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [WRITE, *(args or ["--help"])]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_WriteUnlessNamed,
    help="Write a run as a folder that others load, or prove such a folder again.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Format(StrEnum):
    """What a run can be written as."""

    merged = "merged"
    adapter = "adapter"
    onnx = "onnx"


@app.command(
    WRITE,
    epilog="Example: `brewhouse export runs/quickstart --to merged`\n\n"
    "Prove one again: `brewhouse export check runs/quickstart/exports/merged`",
)
def write_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run or checkpoint.")],
    to: Annotated[
        Format,
        typer.Option(
            "--to",
            help="merged: a Hugging Face model. adapter: a peft adapter. onnx: the student.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Folder under RUN/exports. Default: the format.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Token store. Default: the run's first.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of merged weights: float32 or bfloat16. Default: kept.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an export that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run as a folder that others load.

    It appears only after stock libraries in a fresh process got the trainer's own scores from it.
    """
    from train.export import export_run, parse_job

    words = ["--run", str(run_dir), "--to", to.value]
    for option, value in (("--name", name), ("--store", store), ("--dtype", dtype)):
        if value is not None:
            words += [option, str(value)]
    if overwrite:
        words.append("--overwrite")
    with standard_output_as_error():
        folder, proof = export_run(parse_job(words))
    if as_json:
        print_json(proof.as_dict() | {"folder": str(folder)})
        return
    say(f"Export {folder}: {_in_words(proof)}.")
    say_next(f"brewhouse export check {folder}", f"less {folder}/README.md   # how to load it")


@app.command("check", epilog="Example: `brewhouse export check runs/quickstart/exports/merged`")
def check_command(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder of an export.")],
    as_json: Json = False,
) -> None:
    """Prove an export again: every file's hash, then every score in a fresh process.

    Ends with exit code 1 when a file was changed or a score differs.
    """
    from train.proof import check_export

    proof = check_export(folder)
    if as_json:
        print_json(proof.as_dict())
    elif proof.passed:
        say(f"{folder} is what was proven: {proof.files} files unchanged, {_in_words(proof)}.")
    else:
        err.print(f"{folder} is not what was proven:", style="problem", markup=False)
        for problem in proof.problems:
            err.print(f"  {problem}", markup=False, soft_wrap=True)
        run = folder.parent.parent
        say_next(f"brewhouse export {run} --to {proof.kind} --name {folder.name} --overwrite")
    if not proof.passed:
        raise typer.Exit(1)


def _in_words(proof: ProofResult) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in proof.versions.items())
    gap = proof.max_logit_difference
    return (
        f"{proof.probes} probes scored again by {versions}; largest logit difference "
        f"{'unknown' if gap is None else f'{gap:.1e}'}, same best ten on {proof.top_k_identical}"
    )
