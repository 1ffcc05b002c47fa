"""The quickstart: four public corpora from nothing to a report, as a list of commands.

Each stage is what a person would type; `launch.stages` runs, measures and recognises them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launch.console import err, out, say, say_next
from launch.stages import Stage, StageRunner

CORPORA = ("movielens-100k", "clothing-reviews", "semanlink", "open-bandit")
"""The surfaces, in the order of the recipe's stores; packages of a registry carry all of them."""
FIRST = CORPORA[0]
"""The corpus that the adapter and the student are for: the one with users who come back."""
TOKENIZER = "data/tokenizer"
VOCAB_SIZE = 10_240
RUN = "runs/quickstart"
LORA_RUN = f"{RUN}/lora"
CHECKPOINT = (f"{RUN}/latest", f"{RUN}/checkpoint-*")
LORA_CHECKPOINT = (f"{LORA_RUN}/latest", f"{LORA_RUN}/checkpoint-*")
RUN_FILES = ("metrics.jsonl", "config.yaml", "finished")
RECIPES = Path(__file__).parent / "recipes"
TRAIN_SOURCES = ("data_pipeline", "modeling", "train")


def corpus_folder(name: str) -> str:
    """Where a corpus lies."""
    return f"data/{name}"


def store_folder(name: str) -> str:
    """Where the token store of a corpus lies."""
    return f"data/{name}-store"


STORES = tuple(store_folder(name) for name in CORPORA)


def quickstart_stages() -> list[Stage]:
    """The stages, in order; paths are relative to the current folder."""
    procs = str(_local_processes())
    return [*_data_stages(), *_training_stages(procs), *_small_model_stages(), _report_stage()]


def _data_stages() -> Iterator[Stage]:
    for name in CORPORA:
        yield Stage(
            name=f"fetch-{name}",
            argv=("data", "fetch", name, "--out", corpus_folder(name)),
            outputs=_corpus_files(name),
            sources=("data_pipeline/sources", "data_pipeline/corpus.py"),
            expected_seconds=2,
        )
    for name in CORPORA:
        yield Stage(
            name=f"audit-{name}",
            argv=("data", "audit", corpus_folder(name)),
            inputs=_corpus_files(name),
            outputs=(f"{corpus_folder(name)}/audit.json", f"{corpus_folder(name)}/audit.md"),
            sources=("data_pipeline",),
            expected_seconds=1,
        )
    folders = map(corpus_folder, CORPORA)
    yield Stage(
        name="tokenizer",
        argv=(
            *("data", "tokenizer", *folders),
            *("--vocab-size", str(VOCAB_SIZE), "--out", TOKENIZER),
        ),
        inputs=tuple(file for name in CORPORA for file in _corpus_files(name)),
        outputs=(TOKENIZER,),
        sources=("data_pipeline",),
        expected_seconds=10,
    )
    for name in CORPORA:
        store = store_folder(name)
        yield Stage(
            name=f"build-{name}",
            argv=(
                *("data", "build", corpus_folder(name)),
                *("--tokenizer", TOKENIZER, "--out", store),
            ),
            inputs=(*_corpus_files(name), TOKENIZER),
            outputs=(store,),
            sources=("data_pipeline",),
            expected_seconds=5,
        )


def _corpus_files(name: str) -> tuple[str, ...]:
    return tuple(f"{corpus_folder(name)}/{file}" for file in ("corpus.json", "*.parquet"))


def _training_stages(procs: str) -> list[Stage]:
    recipe, lora_recipe = (_recipe(f"{name}.yaml") for name in ("quickstart", "quickstart_lora"))
    return [
        Stage(
            name="train",
            argv=("train", recipe, "--num-procs", procs),
            inputs=(*STORES, recipe),
            outputs=(*CHECKPOINT, *(f"{RUN}/{name}" for name in RUN_FILES)),
            sources=TRAIN_SOURCES,
            resume_argv=("resume_from_checkpoint=true",),
            resume_when=f"{RUN}/latest",
            expected_seconds=400,
        ),
        Stage(
            name="eval",
            # To be quick; a real evaluation asks more, and tries several settings of baselines.
            argv=(
                *("eval", RUN, "--max-targets", "250", "--max-title-targets", "40"),
                *("--baseline-trials", "1"),
            ),
            inputs=(*STORES, *CHECKPOINT),
            outputs=(f"{RUN}/evaluation",),
            sources=TRAIN_SOURCES,
            expected_seconds=180,
        ),
        Stage(
            name="lora",
            argv=("train", lora_recipe, "--num-procs", procs),
            inputs=(store_folder(FIRST), lora_recipe, *CHECKPOINT),
            outputs=(*LORA_CHECKPOINT, *(f"{LORA_RUN}/{name}" for name in RUN_FILES)),
            sources=TRAIN_SOURCES,
            resume_argv=("resume_from_checkpoint=true",),
            resume_when=f"{LORA_RUN}/latest",
            expected_seconds=35,
        ),
    ]


def _small_model_stages() -> list[Stage]:
    student = f"{RUN}/students/sasrec"
    sources = {
        "merged": (RUN, CHECKPOINT),
        "adapter": (LORA_RUN, LORA_CHECKPOINT),
        "onnx": (RUN, (student,)),
    }
    return [
        Stage(
            name="distill",
            argv=("distill", RUN, "--student", "sasrec", "--store", store_folder(FIRST)),
            inputs=(store_folder(FIRST), *CHECKPOINT),
            outputs=(student, f"{RUN}/teacher_cache"),
            sources=TRAIN_SOURCES,
            expected_seconds=90,
        ),
        *(
            Stage(
                name=f"export-{form}",
                argv=("export", run, "--to", form),
                inputs=inputs,
                outputs=(f"{run}/exports/{form}",),
                sources=TRAIN_SOURCES,
                expected_seconds=10,
            )
            for form, (run, inputs) in sources.items()
        ),
    ]


def _report_stage() -> Stage:
    reports = (f"launch/{path.name}" for path in sorted(RECIPES.parent.glob("report*.py")))
    return Stage(
        name="report",
        argv=("report", RUN),
        inputs=(
            *(f"{corpus_folder(name)}/audit.json" for name in CORPORA),
            f"{RUN}/metrics.jsonl",
            f"{RUN}/evaluation",
            f"{RUN}/students/sasrec",
            f"{RUN}/exports",
            f"{LORA_RUN}/exports",
        ),
        outputs=(f"{RUN}/report.html", f"{RUN}/report.md"),
        sources=(*reports, "launch/templates"),
        expected_seconds=10,
    )


def run_quickstart(*, fresh: bool) -> None:
    """Run every stage that is not finished, then say what came out and what to do next."""
    runner = StageRunner(quickstart_stages(), Path(RUN))
    if fresh:
        runner.start_over()
    try:
        timings = runner.run()
    except KeyboardInterrupt:
        err.print("\nInterrupted. Run the same command again: it goes on where it stopped.")
        raise SystemExit(130) from None
    seconds = sum(timing["seconds"] for timing in timings.values())
    say("")
    _say_summary()
    say(f"{seconds / 60:.1f} minutes of work in all; times and memory in {RUN}/timings.json.")
    say(f"The report: {RUN}/report.html")
    say_next(
        f"open {RUN}/report.html in a browser",
        f"brewhouse tasks show like --store {STORES[0]}          # what the model sees",
        f"brewhouse export check {RUN}/exports/merged        # prove the export again",
        "brewhouse data import mapping.yaml --out data/mine  # your own logs",
    )


def _say_summary() -> None:
    """The verdict of the evaluation: what the model beats, and what it does not."""
    from train.evaluation.results import read_results, summary_lines

    for line in summary_lines(read_results(Path(RUN) / "evaluation" / "results.json")):
        out.print(line, markup=False, soft_wrap=True)


def _recipe(name: str) -> str:
    """The recipe's path as a person would type it from here."""
    path = RECIPES / name
    below = path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if below else path)


def _local_processes() -> int:
    """One process per GPU; without one, two on the CPU, so that there is something to share."""
    import torch

    return torch.cuda.device_count() or 2
