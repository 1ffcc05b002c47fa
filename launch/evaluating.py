"""Starts the workers of an evaluation and reads what they wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from launch.console import standard_output_as_error
from launch.report_results import show
from launch.workers import WorkersError, run_workers
from train.checkpoint import resolve_model_folder
from train.evaluation.results import Results, read_results
from train.evaluation.run import FOLDER, find_config


def evaluate_run(
    run_dir: Path,
    arguments: Sequence[str],
    *,
    phrasing: str,
    stores: Sequence[Path],
    num_procs: int | None,
) -> Results:
    """Evaluate a run, checkpoint or export by worker processes.

    What a person can have wrong is checked here, before processes start, so that it is told as one
    message.

    Raises:
        CheckpointError: there is no model in the folder.
        DataError: a token store cannot be opened.
        WorkersError: a worker failed.
    """
    from data_pipeline.store import open_stores

    resolve_model_folder(run_dir)
    config = find_config(run_dir)
    folders = [str(store.absolute()) for store in stores]
    if not folders and config is not None:
        folders = list(config.stores)
    open_stores(folders)
    if not folders:
        raise DataError(
            "the folder has no config.yaml that names its token stores",
            file=run_dir,
            remedy="say what to evaluate on: --store STORE",
        )
    run_dir = run_dir.absolute()
    owner = run_dir.parent if run_dir.name.startswith("checkpoint-") else run_dir
    words = ["--run", str(run_dir), *arguments]
    for folder in folders:
        words += ["--store", folder]
    file = (
        owner / FOLDER / ("results.json" if phrasing == "trained" else f"results-{phrasing}.json")
    )
    before = _written_at(file)
    with standard_output_as_error():
        code = run_workers("train.evaluation.run", words, owner, num_procs=num_procs)
    # The launcher may end with 0 after its child was killed: believe the file, not the code.
    if code != 0 or _written_at(file) == before:
        raise WorkersError(
            f"the evaluation of {run_dir} ended early (the launcher's exit code is {code}); what "
            "went wrong stands above",
            code or 1,
        )
    return read_results(file)


def _written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


COLUMNS = (
    "task", "metric", "n", "model", "95% interval", "untrained", "trivial", "best", "best baseline",
)  # fmt: skip


def table_rows(results: Results) -> list[list[str]]:
    """A row per task under `COLUMNS`; a tick where the model is better beyond the interval."""
    several = len(results.corpora) > 1
    return [
        [
            f"{row.corpus}/{row.task}" if several else row.task,
            row.metric if row.higher_is_better else f"{row.metric} (less is better)",
            f"{row.n:,}",
            show(row.value),
            f"{show(row.low)} to {show(row.high)}",
            f"{show(row.untrained_value)} {_tick(row.beats_untrained)}",
            f"{show(row.baselines.get(row.trivial or ''))} {_tick(row.beats_trivial)}",
            f"{show(row.baseline_value)} {_tick(row.beats_best)}",
            row.baseline or "",
        ]
        for row in results.rows
    ]


def _tick(beaten: bool | None) -> str:
    return "" if beaten is None else ("✓" if beaten else "✗")


def results_dict(results: Results) -> dict[str, Any]:
    """Results as plain values for JSON."""
    return dataclasses.asdict(results)
