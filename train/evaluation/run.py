"""A worker's entry: `python -m train.evaluation.run --run RUN`, alone or under a launcher.

Writes RUN/evaluation/results.json (results-held_out.json for held-out phrasings), examples.json and
predictions.parquet with every answer; with --curve NAME, curve-NAME.json instead.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipeline.files import atomic_write
from data_pipeline.mixture import MixtureConfig, chosen_tasks
from data_pipeline.store import TokenStore, open_stores
from data_pipeline.tasks import Task, all_tasks, task_named
from train.checkpoint import resolve_model_folder
from train.config import TrainConfig, load_config
from train.distributed import DistributedContext, init_distributed
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves import find_curve
from train.evaluation.curves.trace import trace
from train.evaluation.honesty import check_results
from train.evaluation.models import (
    trained_model,
    untrained_model,
    untrained_name,
    weights_hash,
)
from train.evaluation.prediction_file import write_predictions
from train.evaluation.protocol import Contestant, Evaluation, evaluate
from train.evaluation.results import FOLDER, SCHEMA_VERSION, Results, write_results
from train.logs import set_up_logs
from train.plugins import load_plugins

log = logging.getLogger(__name__)

NUMBERS = (
    "max_targets", "max_title_targets", "calibration_targets", "baseline_trees", "baseline_trials",
    "max_tokens", "seed",
)  # fmt: skip
"""Settings of an evaluation that are options of the command line under their own names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    """One evaluation as a person asks for it."""

    run: Path
    """A run, a checkpoint, an export or a Hugging Face folder."""
    stores: tuple[str, ...] = ()
    """Token stores; empty: those of the run's config."""
    tasks: tuple[str, ...] = ()
    """Task names; empty: those that the run was trained on, and all held-out ones that apply."""
    output: Path | None = None
    """Where results go; None: `evaluation/` in the run."""
    curves: tuple[str, ...] = ()
    """Curves to measure instead of the one evaluation."""
    settings: EvaluationConfig = field(default_factory=EvaluationConfig)


def run_evaluation(job: EvaluationJob, context: DistributedContext) -> list[Results]:
    """Evaluate and write the results; every rank calls this and gets them, one per file.

    Raises:
        ValueError: no model under `run`, no config and no stores given, unknown tasks or curves.
    """
    folder = resolve_model_folder(job.run)
    config = find_config(job.run)
    load_plugins(config.plugins if config else ())
    curves = [find_curve(name) for name in job.curves]
    stores = open_stores(_store_folders(job, config))
    tasks = _tasks(job, config, stores)
    trained = Contestant(
        name=_model_name(job.run, folder),
        load=lambda: trained_model(folder, context.device),
        weights_hash=context.broadcast_object(weights_hash(folder) if context.is_main else ""),
    )
    output = job.output or _run_folder(job.run) / FOLDER
    mixture = config.mixture if config else MixtureConfig()
    seed = config.seed if config else 0
    found = []
    for curve in curves:
        results = trace(
            trained, curve, stores, tasks, mixture, context, job.settings,
            mixture_seed=seed, cache_folder=output,
        )  # fmt: skip
        if context.is_main:
            write_results(results, output / f"curve-{curve.name}.json")
        found.append(results)
    if not curves:
        untrained = _untrained(config, stores[0], context)
        evaluation = evaluate(
            trained, untrained, stores, tasks, mixture, context, job.settings,
            mixture_seed=seed, cache_folder=output,
        )  # fmt: skip
        if context.is_main:
            write_evaluation(evaluation, output)
        found.append(evaluation.results)
    context.barrier()
    return found


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write predictions, results and examples; gives the file of the results.

    Raises:
        DishonestResultError: the result hides something that it has to say.
    """
    check_results(evaluation.results)
    suffix = "" if evaluation.results.phrasing == "trained" else f"-{evaluation.results.phrasing}"
    path = folder / f"results{suffix}.json"
    written = write_predictions(folder / f"predictions{suffix}.parquet", evaluation.predictions)
    write_results(replace(evaluation.results, predictions=written), path)
    examples = {"schema_version": SCHEMA_VERSION, "examples": evaluation.examples}
    atomic_write(folder / f"examples{suffix}.json", json.dumps(examples, indent=1) + "\n")
    return path


def find_config(run: Path) -> TrainConfig | None:
    """The config of a run or checkpoint; None for an export or a bare model folder."""
    for folder in (run, *run.parents[:1]):
        if (folder / "config.yaml").is_file():
            return load_config(folder / "config.yaml")
    return None


def _store_folders(job: EvaluationJob, config: TrainConfig | None) -> Sequence[str]:
    if job.stores:
        return job.stores
    if config is None:
        raise ValueError(
            f"{job.run} has no config.yaml that names its token stores: give --store STORE"
        )
    return config.stores


def _tasks(
    job: EvaluationJob, config: TrainConfig | None, stores: Sequence[TokenStore]
) -> list[Task]:
    if job.tasks:
        return [task_named(name) for name in job.tasks]
    if config is None:
        return [task for task in all_tasks().values() if not task.only_if_named]
    trained = chosen_tasks(stores, config.mixture)
    return [
        task
        for name, task in all_tasks().items()
        if name in trained or (task.tier != "T1" and not task.only_if_named)
    ]


def _untrained(
    config: TrainConfig | None, store: TokenStore, context: DistributedContext
) -> Contestant | None:
    if config is None:
        return None
    return Contestant(
        name=untrained_name(config), load=lambda: untrained_model(config, store, context.device)
    )


def _run_folder(path: Path) -> Path:
    """The run that a checkpoint belongs to; the folder itself otherwise."""
    return path.parent if path.name.startswith("checkpoint-") else path


def _model_name(run: Path, folder: Path) -> str:
    """`RUN/checkpoint-N` without the path of the machine."""
    inside = folder.parent.name if folder.name == "model" else folder.name
    return inside if inside == run.name else f"{run.name}/{inside}"


def parse_job(arguments: Sequence[str] | None = None) -> EvaluationJob:
    """Read the command line."""
    defaults = EvaluationConfig()
    parser = argparse.ArgumentParser(prog="python -m train.evaluation.run", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run, checkpoint or export")
    parser.add_argument("--store", action="append", default=[], help="token store; repeatable")
    parser.add_argument("--task", action="append", default=[], help="task name; repeatable")
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--curve", action="append", default=[], help="curve; repeatable")
    parser.add_argument("--phase", choices=("validation", "test"), default=defaults.phase)
    parser.add_argument("--phrasing", choices=("trained", "held_out"), default=defaults.phrasing)
    for name in NUMBERS:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    parser.add_argument("--whole-impressions", action="store_true")
    parser.add_argument("--resamples", type=int, default=defaults.bootstrap.resamples)
    parser.add_argument("--no-baselines", dest="with_baselines", action="store_false")
    parser.add_argument("--no-untrained", dest="with_untrained", action="store_false")
    # Launchers of DeepSpeed's kind hand each worker its number this way as well.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    settings = EvaluationConfig(
        phase=given.phase,
        phrasing=given.phrasing,
        **{name: getattr(given, name) for name in NUMBERS},
        whole_impressions=given.whole_impressions,
        with_baselines=given.with_baselines,
        with_untrained=given.with_untrained,
        bootstrap=BootstrapConfig(resamples=given.resamples, seed=given.seed),
    )
    return EvaluationJob(
        run=given.run,
        stores=tuple(given.store),
        tasks=tuple(given.task),
        output=given.output,
        curves=tuple(given.curve),
        settings=settings,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; return its exit code."""
    job = parse_job(arguments)
    context = init_distributed()
    try:
        set_up_logs(_run_folder(job.run), context.rank)
        run_evaluation(job, context)
    except ValueError as error:  # what is told to people; others keep a traceback
        log.error("%s: %s", type(error).__name__, error)
        log.debug("", exc_info=error)
        return 1
    finally:
        context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
