"""Two evaluations of the same targets, compared in pairs: `brewhouse eval A --against B`.

Users are drawn again, not targets, and both models see the same draws, so that what the targets
have in common drops out of the difference. Nothing is scored: results and predictions are read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.files import atomic_write, sha256_file
from train.evaluation.bootstrap import Bootstrap, BootstrapConfig
from train.evaluation.metrics import find_metric
from train.evaluation.prediction_file import Key, read_predictions
from train.evaluation.results import (
    FOLDER,
    SCHEMA_VERSION,
    Number,
    Range,
    Results,
    Row,
    number,
    read_results,
)
from train.evaluation.scores import TargetScores

RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An evaluation as it lies on disk."""

    file: Path
    results: Results
    scores: dict[Key, TargetScores]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRow:
    """One task of one corpus: our metric, theirs, and the paired difference."""

    corpus: str
    task: str
    n: int
    users: int
    metric: str
    higher_is_better: bool
    value: Number
    other_value: Number
    difference: Range
    """positive = ours is better, whatever the metric"""
    verdict: str
    """`better` or `worse` beyond the interval, else `no difference`"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two evaluations, task by task."""

    schema_version: int
    model: str
    model_hash: str
    other_model: str
    other_model_hash: str
    phrasing: str
    other_phrasing: str
    phase: str
    split_hash: str
    bootstrap: dict[str, object]
    only_here: list[str]
    """tasks, as CORPUS/TASK, that the other evaluation did not ask"""
    only_there: list[str]
    rows: list[ComparedRow]


def read_recorded(path: Path) -> Recorded:
    """Read a result file, or that of a run: `RUN/evaluation/results.json`.

    Raises:
        ValueError: no result, or its predictions are missing, changed or of another result.
    """
    file = path if path.suffix == ".json" else path / FOLDER / RESULTS
    results = read_results(file)
    if results.predictions is None:
        raise ValueError(f"{file} names no predictions to compare: run `brewhouse eval` again")
    beside = file.parent / results.predictions.file
    if not beside.is_file() or sha256_file(beside) != results.predictions.sha256:
        raise ValueError(
            f"{beside} is not the file that {file.name} was written with: run `brewhouse eval` "
            "again"
        )
    return Recorded(file=file, results=results, scores=read_predictions(beside))


def compare(ours: Recorded, theirs: Recorded, config: BootstrapConfig) -> Comparison:
    """Compare two evaluations on the tasks that both asked.

    Raises:
        ValueError: another phase, corpus, split or other targets; or no task in common.
    """
    _refuse_others(ours, theirs)
    there = {(row.corpus, row.task): row for row in theirs.results.rows}
    here = {(row.corpus, row.task): row for row in ours.results.rows}
    common = [key for key in here if key in there]
    return Comparison(
        schema_version=SCHEMA_VERSION,
        model=ours.results.model,
        model_hash=ours.results.model_hash,
        other_model=theirs.results.model,
        other_model_hash=theirs.results.model_hash,
        phrasing=ours.results.phrasing,
        other_phrasing=theirs.results.phrasing,
        phase=ours.results.phase,
        split_hash=ours.results.split_hash,
        bootstrap=dataclasses.asdict(config) | {"unit": "user"},
        only_here=[f"{corpus}/{task}" for corpus, task in here if (corpus, task) not in there],
        only_there=[f"{corpus}/{task}" for corpus, task in there if (corpus, task) not in here],
        rows=[_row(here[key], ours.scores[key], theirs.scores[key], config) for key in common],
    )


def write_comparison(comparison: Comparison, folder: Path, name: str) -> Path:
    """Write `against-NAME.json`, whole or not at all."""
    file = folder / f"against-{name}.json"
    text = json.dumps(dataclasses.asdict(comparison), indent=1, allow_nan=False)
    atomic_write(file, text + "\n")
    return file


def _row(
    row: Row, ours: TargetScores, theirs: TargetScores, config: BootstrapConfig
) -> ComparedRow:
    metric = find_metric(row.metric)
    bootstrap = Bootstrap(ours.groups_N, config, stream=row.task)
    mine, other = (bootstrap.resample(metric, scores) for scores in (ours, theirs))
    difference = Range.of(bootstrap.difference(mine, other))
    verdict = "no difference"
    if difference.low is not None and difference.high is not None:
        verdict = "better" if difference.low > 0 else verdict
        verdict = "worse" if difference.high < 0 else verdict
    return ComparedRow(
        corpus=row.corpus,
        task=row.task,
        n=len(ours),
        users=bootstrap.n_groups,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        value=number(mine.value),
        other_value=number(other.value),
        difference=difference,
        verdict=verdict,
    )


def _refuse_others(ours: Recorded, theirs: Recorded) -> None:
    files = f"{ours.file} and {theirs.file}"
    if ours.results.phase != theirs.results.phase:
        raise ValueError(
            f"{files} are of the phases {ours.results.phase} and {theirs.results.phase}: "
            "evaluate both on the same"
        )
    corpora = {corpus.name: corpus for corpus in theirs.results.corpora}
    for corpus in ours.results.corpora:
        other = corpora.get(corpus.name)
        for what in ("corpus_fingerprint", "split_hash") if other else ():
            one, two = getattr(corpus, what), getattr(other, what)
            if one != two:
                raise ValueError(
                    f"{files} have different {what} of {corpus.name}, {one} and {two}: a "
                    "difference would say nothing; build both token stores from one corpus with "
                    "one split"
                )
    _refuse_other_targets(ours.results.rows, theirs.results.rows, files)


def _refuse_other_targets(ours: Sequence[Row], theirs: Sequence[Row], files: str) -> None:
    there = {(row.corpus, row.task): row for row in theirs}
    common = [(row, there[row.corpus, row.task]) for row in ours if (row.corpus, row.task) in there]
    if not common:
        raise ValueError(f"{files} have no task in common")
    other = [
        f"{one.corpus}/{one.task} (n {one.n} and {two.n})"
        for one, two in common
        if one.targets_hash != two.targets_hash
    ]
    if other:
        raise ValueError(
            f"{files} asked other targets of {', '.join(other)}: evaluate both with the same "
            "--max-targets and seed, and mixtures of the same targets_per_tree"
        )
    renamed = [
        f"{one.task} ({one.metric}, {two.metric})"
        for one, two in common
        if one.metric != two.metric
    ]
    if renamed:
        raise ValueError(f"{files} measured different metrics of {', '.join(renamed)}")
