"""Starts the workers of an evaluation and reads what they wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from launch.console import standard_output_as_error
from launch.workers import WorkersError, run_workers
from train.checkpoint import resolve_model_folder
from train.evaluation.against import Comparison, compare, read_recorded, write_comparison
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.curves import find_curve
from train.evaluation.curves.over import curve_over
from train.evaluation.results import FOLDER, Results, read_results, write_results
from train.evaluation.run import find_config


def evaluate_run(
    run_dir: Path,
    arguments: Sequence[str],
    *,
    phrasing: str,
    curves: Sequence[str] = (),
    stores: Sequence[Path],
    num_procs: int | None,
) -> list[Results]:
    """Evaluate a run, checkpoint or export by worker processes.

    What a person can have wrong is checked here, before processes start, so that it is told as one
    message.

    Returns:
        The result, or one of each curve.

    Raises:
        CheckpointError: there is no model in the folder.
        DataError: a token store cannot be opened.
        ValueError: no curve has one of the names.
        WorkersError: a worker failed.
    """
    resolve_model_folder(run_dir)
    words = ["--run", str(run_dir.absolute()), *arguments]
    for name in curves:
        words += ["--curve", find_curve(name).name]
    for folder in _store_folders(run_dir, stores):
        words += ["--store", folder]
    owner = _owner(run_dir.absolute())
    names = [f"curve-{name}.json" for name in curves] or [result_name(phrasing)]
    files = [owner / FOLDER / name for name in names]
    before = [_written_at(file) for file in files]
    with standard_output_as_error():
        code = run_workers("train.evaluation.run", words, owner, num_procs=num_procs)
    # The launcher may end with 0 after its child was killed: believe the files, not the code.
    after = [_written_at(file) for file in files]
    if code != 0 or any(one == two for one, two in zip(before, after, strict=True)):
        raise WorkersError(
            f"the evaluation of {run_dir} ended early (the launcher's exit code is {code}); what "
            "went wrong stands above",
            code or 1,
        )
    return [read_results(file) for file in files]


def compare_runs(ours: Path, theirs: Path, *, phrasing: str) -> tuple[Comparison, Path]:
    """Compare two evaluations that were written before; each is a result file or its run.

    Returns:
        The comparison, and the file that it was written to, beside our result.

    Raises:
        ValueError: an evaluation is missing, or they are of other targets.
    """
    recorded = []
    for path in (ours, theirs):
        file = path if path.suffix == ".json" else _owner(path) / FOLDER / result_name(phrasing)
        if not file.is_file():
            raise DataError(
                "there is no evaluation to compare", file=file, remedy=f"brewhouse eval {path}"
            )
        recorded.append(read_recorded(file))
    drawn = {key: recorded[0].results.bootstrap[key] for key in ("resamples", "level", "seed")}
    comparison = compare(recorded[0], recorded[1], BootstrapConfig(**drawn))
    name = theirs.stem if theirs.suffix == ".json" else theirs.resolve().name
    return comparison, write_comparison(comparison, recorded[0].file.parent, name)


def curve_over_runs(runs: Sequence[Path], over: str, *, phrasing: str) -> tuple[Results, Path]:
    """Put evaluations that were written before on a curve, each run a point.

    Returns:
        The curve, and the file that it was written to, in the run named last.

    Raises:
        ValueError: a run was not evaluated, or on other targets; or the runs do not differ.
    """
    name, owners = result_name(phrasing), [_owner(run) for run in runs]
    for run, owner in zip(runs, owners, strict=True):
        if not (owner / FOLDER / name).is_file():
            raise DataError(
                "the run was not evaluated",
                file=owner / FOLDER / name,
                remedy=f"brewhouse eval {run}",
            )
    results = curve_over(owners, over, results_name=name)
    file = owners[-1] / FOLDER / f"curve-{over}.json"
    write_results(results, file)
    return results, file


def result_name(phrasing: str) -> str:
    """The file of a result, by its phrasing."""
    return "results.json" if phrasing == "trained" else f"results-{phrasing}.json"


def _store_folders(run_dir: Path, stores: Sequence[Path]) -> list[str]:
    from data_pipeline.store import open_stores

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
    return folders


def _owner(run_dir: Path) -> Path:
    """The run of a checkpoint; any other folder itself."""
    return run_dir.parent if run_dir.name.startswith("checkpoint-") else run_dir


def _written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
