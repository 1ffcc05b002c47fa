"""`brewhouse bench`: measurements that can be compared between commits and machines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.console import err, print_json, print_table, say_next, standard_output_as_error

if TYPE_CHECKING:
    from data_pipeline.store import TokenStore

app = typer.Typer(
    help="Measure: prints one object of flat metrics with commit, machine and command.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
OwnStore = Annotated[
    Path | None,
    typer.Option("--store", help="A token store. Default: MovieLens-100K, fetched and built."),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="A token store. Default: MovieLens-100K, fetched and built for SmolLM2's tokenizer.",
    ),
]
Rounds = Annotated[int, typer.Option(min=1, help="Interleaved rounds; medians count.")]
Size = Annotated[
    Literal["135m", "5m"],
    typer.Option(help="The shape of SmolLM2-135M, or one of 5 million weights in its layers."),
]


@app.command("data", epilog="Example: `brewhouse bench data --json`")
def data_command(
    store_dir: OwnStore = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; medians count.")] = 9,
    as_json: Json = False,
) -> None:
    """Assemble micro-batches against tokenizing the same text; see whether training waits."""
    from launch.bench.data import bench_data, wait_shares

    with _opened(store_dir) as store:
        metrics = bench_data(store, rounds=rounds) | wait_shares(store)
    words = [*_words("data", store_dir), "--rounds", str(rounds)]
    _tell("data", words, metrics, as_json)


@contextmanager
def _opened(store_dir: Path | None, tokenizer: str | None = None) -> Iterator[TokenStore]:
    """The store that is named, or MovieLens-100K built for this while; nothing goes to stdout."""
    from data_pipeline.store import TokenStore
    from launch.bench import stores

    with (
        tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch,
        standard_output_as_error(),
    ):
        if store_dir is not None:
            yield TokenStore.open(store_dir)
            return
        _note("fetching and compiling MovieLens-100K (use --store to take another)")
        yield stores.movielens_store(Path(scratch), tokenizer or stores.OWN_TOKENIZER)


@app.command("zero", epilog="Example: `brewhouse bench zero --json`")
def zero_command(
    store_dir: OwnStore = None,
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
    store_dir: OwnStore = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="An evaluated run whose tasks are counted too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score targets; fit SASRec and GRU4Rec on MovieLens-100K as other libraries do."""
    from data_pipeline.corpus import Corpus
    from data_pipeline.store import TokenStore
    from launch.bench import stores
    from launch.bench.evaluation import bench_evaluation

    with tempfile.TemporaryDirectory(prefix="brewhouse-bench-") as scratch:
        _note("fetching and compiling MovieLens-100K")
        built = stores.movielens_store(Path(scratch))
        store = TokenStore.open(store_dir) if store_dir else built
        metrics = bench_evaluation(Corpus.open(Path(scratch) / "corpus"), store, run_dir)
    words = _words("evaluation", store_dir)
    _tell("evaluation", [*words, *(["--run", str(run_dir)] if run_dir else [])], metrics, as_json)


@app.command(
    "train",
    epilog="Example: `brewhouse bench train --json`\n\n"
    "Against TRL in an environment of its own: "
    "`brewhouse bench train --trl-python ENV/bin/python --json`",
)
def train_command(
    store_dir: Store = None,
    size: Size = "135m",
    rounds: Rounds = 3,
    trl_python: Annotated[
        Path | None, typer.Option(help="Python of an environment in which TRL is installed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on trees against one prompt per target: targets/s, memory, utilisation."""
    from launch.bench.train import bench_train
    from launch.bench.workload import TOKENIZER

    with _opened(store_dir, TOKENIZER) as store:
        metrics = bench_train(store, size=size, rounds=rounds, trl_python=trl_python, note=_note)
    words = [*_words("train", store_dir), "--size", size, "--rounds", str(rounds)]
    words += ["--trl-python", str(trl_python)] if trl_python else []
    _tell("train", words, metrics, as_json)


@app.command(
    "score",
    epilog="Example: `brewhouse bench score --json`\n\n"
    "Against llama.cpp in an environment of its own: "
    "`brewhouse bench score --candidates 1,8,32 --llamacpp-python ENV/bin/python --json`",
)
def score_command(
    store_dir: Store = None,
    size: Size = "135m",
    model: Annotated[
        str | None,
        typer.Option(help="A model to load in place of --size: folder, package:NAME or hub id."),
    ] = None,
    candidates: Annotated[
        str, typer.Option(help="Candidates of a request; several numbers with commas.")
    ] = "1,8,32,128,1000",
    rounds: Rounds = 3,
    llamacpp_python: Annotated[
        Path | None,
        typer.Option(help="Python of an environment in which llama-cpp-python is installed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score candidates of one user: cold and warm trunk, one prompt per pair, llama.cpp."""
    from launch.bench.score import bench_score
    from launch.bench.workload import TOKENIZER

    counts = _numbers("--candidates", candidates)
    with _opened(store_dir, TOKENIZER) as store:
        metrics = bench_score(
            store,
            size=size,
            model_name=model,
            counts=counts,
            rounds=rounds,
            llamacpp_python=llamacpp_python,
            note=_note,
        )
    words = [*_words("score", store_dir), *(["--model", model] if model else ["--size", size])]
    words += ["--candidates", candidates, "--rounds", str(rounds)]
    words += ["--llamacpp-python", str(llamacpp_python)] if llamacpp_python else []
    _tell("score", words, metrics, as_json)


@app.command("attention", epilog="Example: `brewhouse bench attention --output plots --json`")
def attention_command(
    size: Size = "5m",
    trunks: Annotated[
        str, typer.Option(help="Trunk lengths in tokens; several numbers with commas.")
    ] = "256,512,1024,2048,4096,8192",
    rounds: Rounds = 3,
    output: Annotated[Path | None, typer.Option(help="Folder for the plot, attention.png.")] = None,
    as_json: Json = False,
) -> None:
    """Growth of a step's time with trunk, targets and layers; exactness in fp32."""
    from launch.bench.attention import bench_attention, draw

    lengths = _numbers("--trunks", trunks)
    if len(set(lengths)) < 2:
        raise typer.BadParameter("--trunks needs two lengths or more: growth lies between them")
    metrics, curves = bench_attention(size=size, rounds=rounds, trunks=lengths, note=_note)
    words = ["bench", "attention", "--size", size, "--trunks", trunks, "--rounds", str(rounds)]
    if output is not None:
        draw(curves, output / "attention.png")
        _note(f"drawn: {output / 'attention.png'}")
        words += ["--output", str(output)]
    _tell("attention", words, metrics, as_json)


@app.command("quality", epilog="Example: `brewhouse bench quality --json`")
def quality_command(
    store_dir: OwnStore = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 250,
    as_json: Json = False,
) -> None:
    """Learning from trees of 32, 8 and 1 targets of a user, at equal targets; half an hour."""
    from launch.bench.quality import bench_quality

    with _opened(store_dir) as store:
        metrics = bench_quality(store, steps=steps)
    _tell("quality", [*_words("quality", store_dir), "--steps", str(steps)], metrics, as_json)


@app.command("predict", epilog="Example: `brewhouse bench predict`")
def predict_command(as_json: Json = False) -> None:
    """Count what trees should save on an H100 at 8B and 70B: predictions, nothing is measured."""
    from launch.bench.predictions import prediction_metrics, predictions

    found = predictions()
    if as_json:
        _tell("predict", ["bench", "predict"], prediction_metrics(found), as_json)
        return
    columns = ("model", "work", "tokens", "TFLOP", "GB", "GPU-seconds at peak", "bound by")
    rows = [
        (
            one.model,
            one.work,
            f"{one.tokens:,}",
            f"{one.flops / 1e12:,.1f}",
            f"{one.n_bytes / 1e9:,.1f}",
            f"{one.gpu_seconds:.4f}",
            one.bound,
        )
        for one in found
    ]
    print_table(columns, rows, right=columns[2:6])
    err.print(
        "predictions by counting, for an H100 SXM of 989 TFLOP/s (dense bf16) and 3.35 TB/s; "
        "no GPU was used",
        style="dim",
    )
    say_next(
        "brewhouse train CONFIG.yaml attn_layout=L2 max_steps=20  # and attn_layout=L0: targets/s",
        "brewhouse bench score --model MODEL --store STORE        # on the device that is here",
    )


def _numbers(option: str, text: str) -> list[int]:
    """Numbers with commas between them, each once, in rising order."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise typer.BadParameter(f"{option} takes numbers from 1 with commas between, got {text!r}")
    return numbers


def _note(text: str) -> None:
    """What is being done, for who waits; standard output is the result's."""
    err.print(text, style="dim", markup=False, soft_wrap=True)


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
