"""The evaluation, top to bottom: questions, answers of the model, of its opponents, rows.

Every rank runs this alike and returns the same results; who writes them is the caller's affair.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from data_pipeline.files import fingerprint
from data_pipeline.mixture import MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Tree
from modeling.backbone import count_parameters
from train.distributed import DistributedContext
from train.evaluation.config import EvaluationConfig
from train.evaluation.exam import (
    Exam,
    ScoresByTask,
    check_complete,
    prepare_exam,
    users_scored,
)
from train.evaluation.examples import pick_examples
from train.evaluation.opponents import Opponents, score_baselines
from train.evaluation.prediction_file import Key
from train.evaluation.predictions import predict
from train.evaluation.questions import questions_fingerprint
from train.evaluation.results import DECODING, SCHEMA_VERSION, CorpusResult, Results, Row
from train.evaluation.rows import TaskScores, make_row
from train.evaluation.scores import TargetScores
from train.evaluation.swap import swapped_trees
from train.evaluation.temperature import fit_temperature
from train.provenance import provenance

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said in one exam."""

    scores: ScoresByTask = field(default_factory=dict)
    swapped: ScoresByTask = field(default_factory=dict)
    """to the first pairs of items, the other way round"""
    temperatures: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A model to score: loaded when its turn comes, so that two never share the memory."""

    name: str
    load: Callable[[], torch.nn.Module]
    """gives a model on the context's device"""
    weights_hash: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Results, with the examples and the predictions behind them."""

    results: Results
    examples: list[dict[str, Any]]
    predictions: dict[Key, TargetScores]


def evaluate(
    trained: Contestant,
    untrained: Contestant | None,
    stores: Sequence[TokenStore],
    tasks: Sequence[Task],
    mixture: MixtureConfig,
    context: DistributedContext,
    config: EvaluationConfig,
    *,
    mixture_seed: int = 0,
    cache_folder: Path | None = None,
) -> Evaluation:
    """Evaluate a model against its untrained self and the tasks' baselines, on the same targets.

    Args:
        trained: the model.
        untrained: the backbone that it started from; None leaves the comparison out.
        stores: corpora; a task is asked of those that it applies to.
        tasks: what to ask.
        mixture: how prompts are made: history, styles; must be that of the training.
        context: this rank and the others.
        config: what is asked, how much of it, and against whom.
        mixture_seed: seed that the run was trained with, for the record.
        cache_folder: where baseline scores are kept between evaluations; None = nowhere.

    Raises:
        ValueError: no task applies to any store, a task names an unknown metric or baseline, or
            calls a sampled metric by a full one's name; a probability that is not finite.
        RuntimeError: users, targets or ranked items expected and scored differ.
    """
    clock = Clock()
    exams = [prepare_exam(store, tasks, mixture, config) for store in stores]
    if not any(exam.targets for exam in exams):
        raise ValueError(f"nothing to evaluate: {[exam.skipped for exam in exams]}")
    with clock.measure("model"):
        model = load_alone(trained)
        parameters = count_parameters(model).total
        ours = _examine(model, trained.name, exams, context, config, is_trained=True)
        del model
    theirs = [Answers() for _ in exams]
    if untrained and config.with_untrained:
        with clock.measure("untrained"):
            model = load_alone(untrained)
            theirs = _examine(model, untrained.name, exams, context, config, is_trained=False)
            del model
    with clock.measure("baselines"):
        opponents = [oppose(exam, mixture, context, config, cache_folder) for exam in exams]
    all_of_them = list(zip(exams, ours, theirs, opponents, strict=True))
    with clock.measure("intervals"):
        rows = [row for each in all_of_them for row in _rows(*each, context, config)]
    seconds = clock.seconds()
    asked_of_model = sum(
        exam.targets + sum(len(tree.branches) for tree in exam.calibration) for exam in exams
    )
    header = results_header(trained, stores, mixture, mixture_seed, context, config)
    results = Results(
        **header,
        parameters=parameters,
        untrained=untrained.name if untrained and config.with_untrained else None,
        seconds=seconds,
        targets_per_second=asked_of_model / max(seconds["model"], 1e-9),
        corpora=[corpus_result(exam, own.scores, other) for exam, own, _, other in all_of_them],
        rows=rows,
    )
    return Evaluation(
        results=results,
        examples=_examples(exams, ours),
        predictions={
            (exam.store.card.corpus_name, task.name): own.scores[task.name]
            for exam, own in zip(exams, ours, strict=True)
            for task in exam.answerable
        },
    )


def results_header(
    trained: Contestant,
    stores: Sequence[TokenStore],
    mixture: MixtureConfig,
    mixture_seed: int,
    context: DistributedContext,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """What every result says of how it came about, as keywords of `Results`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": trained.name,
        "model_hash": trained.weights_hash,
        "phase": config.phase,
        "phrasing": config.phrasing,
        "decoding": DECODING,
        "split_hash": _joined([store.card.split["hash"] for store in stores]),
        "seed": config.seed,
        "mixture_seed": mixture_seed,
        "bootstrap": asdict(config.bootstrap) | {"unit": "user"},
        "max_targets": config.max_targets,
        "max_title_targets": config.max_title_targets,
        "max_ranked_titles": config.max_ranked_titles,
        "calibration_targets": config.calibration_targets,
        "whole_impressions": config.whole_impressions,
        "mixture": TypeAdapter(MixtureConfig).dump_python(mixture, mode="json"),
        "provenance": provenance(),
        "world_size": context.world_size,
    }


def corpus_result(exam: Exam, scores: ScoresByTask, opponents: Opponents) -> CorpusResult:
    """What was evaluated on."""
    card = exam.store.card
    return CorpusResult(
        name=card.corpus_name,
        store_fingerprint=card.fingerprint,
        corpus_fingerprint=card.corpus_fingerprint,
        split_hash=card.split["hash"],
        split=dict(card.split),
        set_fingerprint=questions_fingerprint(exam.asked),
        users_expected=exam.users,
        users_scored=users_scored(scores),
        targets_expected=exam.targets,
        targets_scored=sum(map(len, scores.values())),
        skipped=exam.skipped,
        baseline_settings=opponents.settings,
        catalog_items=len(exam.store.statistics.known_items),
    )


def oppose(
    exam: Exam,
    mixture: MixtureConfig,
    context: DistributedContext,
    config: EvaluationConfig,
    cache_folder: Path | None,
) -> Opponents:
    """The baselines' answers to an exam."""
    if not config.with_baselines:
        return Opponents()
    return score_baselines(
        exam.store,
        exam.answerable,
        (exam.validation, exam.asked),
        mixture,
        context,
        seed=config.seed,
        trees=config.baseline_trees,
        trials=config.baseline_trials,
        cache_folder=cache_folder,
    )


def load_alone(contestant: Contestant) -> torch.nn.Module:
    """Load a model after the one before it has left the memory."""
    gc.collect()  # it may be held by reference cycles
    return contestant.load()


def _examine(
    model: torch.nn.Module,
    name: str,
    exams: Sequence[Exam],
    context: DistributedContext,
    config: EvaluationConfig,
    *,
    is_trained: bool,
) -> list[Answers]:
    """Let a model answer all exams; the trained one more thoroughly."""
    answers = []
    for exam in exams:
        where = f"{name} on {exam.store.card.corpus_name}"

        def ask(
            trees: Sequence[Tree], what: str, exam: Exam = exam, where: str = where
        ) -> ScoresByTask:
            if not trees:
                return {}
            return predict(
                model,
                trees,
                exam.tasks,
                exam.store,
                context,
                max_tokens=config.max_tokens,
                description=f"{where}{what}",
            )

        scores = ask(exam.trees, "")
        check_complete(exam, scores)
        if not is_trained:
            answers.append(Answers(scores))
            continue
        swapped = ask(swapped_trees(exam.store, exam.tasks, exam.trees), ", pairs swapped")
        earlier = ask(exam.calibration, ", validation")
        temperatures = {name: fit_temperature(part) for name, part in earlier.items()}
        answers.append(Answers(scores, swapped, temperatures))
    return answers


def _rows(
    exam: Exam,
    ours: Answers,
    theirs: Answers,
    opponents: Opponents,
    context: DistributedContext,
    config: EvaluationConfig,
) -> list[Row]:
    """A row per task with targets; the ranks share the resampling."""
    mine: dict[str, Row] = {}
    for task in exam.answerable[context.rank :: context.world_size]:
        asked = exam.asked[task.name]
        scored = TaskScores(
            task=task,
            asked=asked,
            model=ours.scores[task.name],
            swapped=ours.swapped.get(task.name),
            untrained=theirs.scores.get(task.name),
            baselines=opponents.of(task.name),
            sampled=task.name in exam.sampled,
            temperature=ours.temperatures.get(task.name),
        )
        mine[task.name] = make_row(exam.store, scored, config.bootstrap)
    rows = {name: row for part in context.all_gather_object(mine) for name, row in part.items()}
    return [rows[task.name] for task in exam.answerable]


def _examples(exams: Sequence[Exam], ours: Sequence[Answers]) -> list[dict[str, Any]]:
    return [
        example
        for exam, own in zip(exams, ours, strict=True)
        for example in pick_examples(exam.store, exam.tasks, exam.trees, own.scores)
    ]


def _joined(hashes: Sequence[str]) -> str:
    """One hash as it is, several as the hash of all."""
    return hashes[0] if len(hashes) == 1 else fingerprint(list(hashes))


@dataclass(slots=True)
class Clock:
    """Seconds of each part, and of all."""

    parts: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count the seconds of a block to a part."""
        began = time.monotonic()
        yield
        self.parts[name] = time.monotonic() - began
        log.info("evaluation: %s took %.1f s", name, self.parts[name])

    def seconds(self) -> dict[str, float]:
        """Seconds by part, and `total`."""
        total = time.monotonic() - self.began
        return {name: round(s, 3) for name, s in {**self.parts, "total": total}.items()}
