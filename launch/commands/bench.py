"""`brewhouse bench`: measurements that can be compared between commits and machines."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.console import err, print_json, print_table, say_next, standard_output_as_error

if TYPE_CHECKING:
    from data_pipeline.store import TokenStore

app = typer.Typer(
    help="Measure: prints one object of flat metrics with commit, machine and command.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("data", epilog="Example: `brewhouse bench data --json`")
def data_command(
    store_dir: Annotated[
        Path | None,
        typer.Option("--store", help="A token store. Default: MovieLens-100K, fetched and built."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; medians count.")] = 9,
    as_json: Json = False,
) -> None:
    """Assemble micro-batches against tokenizing the same text, one core each."""
    from data_pipeline.store import TokenStore
    from launch.bench.data import bench_data

    with tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch:
        store = TokenStore.open(store_dir) if store_dir else _movielens_store(Path(scratch))
        metrics = bench_data(store, rounds=rounds)
    words = [*_words("data", store_dir), "--rounds", str(rounds)]
    _tell("data", words, metrics, as_json)


def _movielens_store(scratch: Path) -> TokenStore:
    from data_pipeline.sources import fetch_corpus
    from launch.opening import cache_dir, compile_corpus

    err.print("fetching and compiling MovieLens-100K (use --store to take another)", style="dim")
    fetch_corpus("movielens-100k", scratch / "corpus", cache_dir=cache_dir())
    return compile_corpus(scratch / "corpus", "train:8192", scratch / "store")


@app.command("zero", epilog="Example: `brewhouse bench zero --json`")
def zero_command(
    store_dir: Annotated[
        Path | None,
        typer.Option("--store", help="A token store. Default: MovieLens-100K, fetched and built."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Equality of processes, ZeRO stages, layouts and of a resumed run: what must not differ."""
    from launch.bench.zero import bench_zero

    with standard_output_as_error():
        metrics = bench_zero(store_dir)
    _tell("zero", _words("zero", store_dir), metrics, as_json)


@app.command(
    "evaluation",
    epilog="Example: `brewhouse bench evaluation --json`\n\n"
    "With the figures of a run: `brewhouse bench evaluation --run RUN --json`",
)
def evaluation_command(
    store_dir: Annotated[
        Path | None,
        typer.Option("--store", help="A token store. Default: MovieLens-100K, fetched and built."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="An evaluated run whose tasks are counted too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score targets; fit SASRec and GRU4Rec on MovieLens-100K as other libraries do."""
    from data_pipeline.corpus import Corpus
    from data_pipeline.store import TokenStore
    from launch.bench.evaluation import bench_evaluation

    with tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch:
        built = _movielens_store(Path(scratch))
        store = TokenStore.open(store_dir) if store_dir else built
        metrics = bench_evaluation(Corpus.open(Path(scratch) / "corpus"), store, run_dir)
    words = _words("evaluation", store_dir)
    _tell("evaluation", [*words, *(["--run", str(run_dir)] if run_dir else [])], metrics, as_json)


def _words(name: str, store_dir: Path | None) -> list[str]:
    return ["bench", name, *(["--store", str(store_dir)] if store_dir else [])]


def _tell(name: str, argv: list[str], metrics: Mapping[str, float], as_json: bool) -> None:
    from launch.bench.result import benchmark_result

    result = benchmark_result(name, [*argv, "--json"] if as_json else argv, metrics)
    if as_json:
        print_json(result)
        return
    rows = [(key, f"{value:,.6g}") for key, value in result["metrics"].items()]
    print_table(("metric", "value"), rows, right=("value",))
    err.print(f"{result['machine']}, commit {result['commit']}", style="dim")
    say_next(f"{result['command']} --json")
