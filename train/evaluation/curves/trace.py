"""Measures a curve, top to bottom: one exam, its points, the model's answers, rows.

Baselines answer the whole exam once, with the whole history: a point takes its part of that. Every
rank runs this alike and returns the same results.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_pipeline.mixture import MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from modeling.backbone import count_parameters
from train.distributed import DistributedContext
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves.base import Curve, Ground
from train.evaluation.curves.points import Point, make_point
from train.evaluation.curves.slope import slope
from train.evaluation.curves.writing import write_first
from train.evaluation.exam import Exam, ScoresByTask, check_full_ranking, prepare_exam
from train.evaluation.opponents import Opponents
from train.evaluation.predictions import predict
from train.evaluation.protocol import (
    Clock,
    Contestant,
    corpus_result,
    load_alone,
    oppose,
    results_header,
)
from train.evaluation.questions import Asked, group_of
from train.evaluation.results import CorpusResult, CurveCard, Range, Results, Row
from train.evaluation.rows import TaskScores, make_row, paired_difference
from train.evaluation.scores import TargetScores

log = logging.getLogger(__name__)

_WIDER = 4
"""Exams are so many times larger where each point asks a part of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Traced:
    """A corpus on a curve."""

    exam: Exam
    ground: Ground
    points: list[Point]
    left_out: dict[float, str]


def trace(
    trained: Contestant,
    curve: Curve,
    stores: Sequence[TokenStore],
    tasks: Sequence[Task],
    mixture: MixtureConfig,
    context: DistributedContext,
    config: EvaluationConfig,
    *,
    mixture_seed: int = 0,
    cache_folder: Path | None = None,
) -> Results:
    """Measure a curve of a model, beside the tasks' baselines.

    Args:
        trained: the model.
        curve: what to vary.
        stores: corpora.
        tasks: what to ask; those without such a curve are left out.
        mixture: how prompts are made, where the curve does not say otherwise.
        context: this rank and the others.
        config: how much is asked: `max_targets` of each task at each point.
        mixture_seed: seed that the run was trained with, for the record.
        cache_folder: where baseline scores are kept; None = nowhere.

    Returns:
        A result with a row per corpus, task and x.

    Raises:
        ValueError: no task or corpus has such a curve.
        RuntimeError: targets expected and scored differ.
    """
    clock = Clock()
    config = replace(config, with_untrained=False, calibration_targets=0)
    wanted = [task for task in tasks if curve.wants(task)]
    if not wanted:
        raise ValueError(
            f"none of the tasks {[task.name for task in tasks]} has a curve of {curve.name}"
        )
    with clock.measure("model"):
        model = load_alone(trained)
        traced, reasons = _prepare(model, curve, stores, wanted, mixture, context, config)
        answers = [_answer(model, one, context, config, trained.name) for one in traced]
        parameters = count_parameters(model).total
        del model
    with clock.measure("baselines"):
        opponents = [oppose(one.exam, mixture, context, config, cache_folder) for one in traced]
    with clock.measure("intervals"):
        corpora, rows = [], []
        for one, scores, other in zip(traced, answers, opponents, strict=True):
            corpora.append(_corpus(curve, one, scores, other, config))
            rows += _rows(curve, one, scores, other, context, config)
    seconds = clock.seconds()
    asked = sum(point.targets for one in traced for point in one.points)
    return Results(
        **results_header(
            trained, [one.exam.store for one in traced], mixture, mixture_seed, context, config
        ),
        parameters=parameters,
        untrained=None,
        seconds=seconds,
        targets_per_second=asked / max(seconds["model"], 1e-9),
        corpora=corpora,
        rows=rows,
        curve=_card(curve, traced, reasons),
    )


def _prepare(
    model: torch.nn.Module,
    curve: Curve,
    stores: Sequence[TokenStore],
    tasks: Sequence[Task],
    mixture: MixtureConfig,
    context: DistributedContext,
    config: EvaluationConfig,
) -> tuple[list[_Traced], dict[str, str]]:
    """The corpora with their points, and why others have none."""
    wider = config.max_targets * (1 if curve.same_targets else _WIDER)
    exam_config = replace(config, max_targets=wider)
    traced, reasons = [], {}
    for store in stores:
        exam = prepare_exam(store, tasks, curve.mixture(mixture), exam_config)
        ground = Ground.of(store, exam.tasks, mixture)
        try:
            xs = curve.xs(ground)
        except ValueError as error:
            reasons[store.card.corpus_name] = str(error)
            continue
        if curve.writes is not None:
            written = write_first(model, curve.writes, ground, exam.trees, context, config)
            ground = replace(ground, written=written)
        made = [make_point(curve, ground, x, exam.trees, config.max_targets) for x in xs]
        points, left_out = _within(made, positions_of(model))
        if points:
            left_out = {**curve.skipped(ground), **left_out}
            traced.append(_Traced(exam=exam, ground=ground, points=points, left_out=left_out))
        else:
            whys = dict.fromkeys([*left_out.values(), *exam.skipped.values()])
            reasons[store.card.corpus_name] = "; ".join(whys) or "it has no targets on the curve"
    if not traced:
        raise ValueError(f"no corpus has a curve of {curve.name}: {reasons}")
    return traced, reasons


def positions_of(model: torch.nn.Module) -> int | None:
    """Tokens that the model has positions for; None where it does not say."""
    found = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def _within(points: Sequence[Point], positions: int | None) -> tuple[list[Point], dict[float, str]]:
    """The points with targets that the model has positions for, and why others are left out."""
    kept, left_out = [], {}
    for point in points:
        if positions is not None and point.longest > positions:
            left_out[point.x] = (
                f"its longest prompt has {point.longest} tokens, more than the model's {positions} "
                "positions"
            )
            log.warning("curve: x=%g is left out, %s", point.x, left_out[point.x])
        elif point.targets:
            kept.append(point)
    return kept, left_out


def _answer(
    model: torch.nn.Module,
    one: _Traced,
    context: DistributedContext,
    config: EvaluationConfig,
    name: str,
) -> list[ScoresByTask]:
    """The model's answers at each point."""
    answers = []
    for point in one.points:
        scores = predict(
            model,
            point.trees,
            one.exam.tasks,
            one.exam.store,
            context,
            max_tokens=config.max_tokens,
            description=f"{name} on {one.exam.store.card.corpus_name}, x={point.x:g}",
        )
        scored = {task: len(part) for task, part in scores.items() if len(part)}
        expected = {task: len(rows) for task, rows in point.rows.items()}
        if scored != expected:
            raise RuntimeError(f"x={point.x:g}: {expected} targets were expected, got {scored}")
        for task in one.exam.tasks:
            if task.kind == "title" and task.name in point.rows:
                asked = _asked(one, point, task)
                check_full_ranking(one.exam.store, task, asked, scores[task.name])
        answers.append(scores)
    return answers


def _asked(one: _Traced, point: Point, task: Task) -> list[Asked]:
    return [one.exam.asked[task.name][row] for row in point.rows[task.name]]


def _rows(
    curve: Curve,
    one: _Traced,
    answers: Sequence[ScoresByTask],
    opponents: Opponents,
    context: DistributedContext,
    config: EvaluationConfig,
) -> list[Row]:
    """Rows by task and then by x; the ranks share the resampling."""
    tasks = [task for task in one.exam.tasks if any(task.name in p.rows for p in one.points)]
    mine: dict[str, list[Row]] = {}
    for task in tasks[context.rank :: context.world_size]:
        mine[task.name] = _task_rows(curve, one, task, answers, opponents, config)
    rows = {name: part for parts in context.all_gather_object(mine) for name, part in parts.items()}
    return [row for task in tasks for row in rows[task.name]]


def _task_rows(
    curve: Curve,
    one: _Traced,
    task: Task,
    answers: Sequence[ScoresByTask],
    opponents: Opponents,
    config: EvaluationConfig,
) -> list[Row]:
    rows: list[Row] = []
    first: TargetScores | None = None
    before: TargetScores | None = None
    for point, scores in zip(one.points, answers, strict=True):
        if task.name not in point.rows:
            continue
        chosen, model = point.rows[task.name], scores[task.name]
        scored = TaskScores(
            task=task,
            asked=_asked(one, point, task),
            model=model,
            swapped=None,
            untrained=None,
            baselines={n: part.take(chosen) for n, part in opponents.of(task.name).items()},
            sampled=task.name in one.exam.sampled,
        )
        row = make_row(one.exam.store, scored, config.bootstrap)
        to_first, to_previous = (
            paired_difference(task, model, other, config.bootstrap)
            if curve.same_targets and other is not None and model.same_targets(other)
            else None
            for other in (first, before)
        )
        first, before = (model if first is None else first), model
        rows.append(
            replace(
                row,
                x=point.x,
                reached=point.reached[task.name],
                difference_to_first=to_first,
                difference_to_previous=to_previous,
                slices=[],
            )
        )
    return rows


def _corpus(
    curve: Curve,
    one: _Traced,
    answers: Sequence[ScoresByTask],
    opponents: Opponents,
    config: EvaluationConfig,
) -> CorpusResult:
    """What was asked, counted over the points."""
    slopes: dict[str, Range] = {}
    for task in one.exam.tasks if curve.has_slope else ():
        parts = [
            (point.x, scores[task.name])
            for point, scores in zip(one.points, answers, strict=True)
            if task.name in point.rows
        ]
        found = slope(task, parts, config.bootstrap)
        if found is not None:
            slopes[task.name] = found
    groups: set[int] = set()
    for point, scores in zip(one.points, answers, strict=True):
        groups |= {int(g) for name in point.rows for g in scores[name].groups_N if g >= 0}
    expected = {
        group_of(one.exam.asked[name][row])
        for point in one.points
        for name, rows in point.rows.items()
        for row in rows
    }
    result = corpus_result(one.exam, {}, opponents)
    return replace(
        result,
        users_expected=sum(group >= 0 for group in expected),
        users_scored=len(groups),
        targets_expected=sum(point.targets for point in one.points),
        targets_scored=sum(len(part) for scores in answers for part in scores.values()),
        curve_slopes=slopes,
    )


def _card(curve: Curve, traced: Sequence[_Traced], reasons: Mapping[str, str]) -> CurveCard:
    names: dict[float, str] = {}
    left_out = dict(reasons)
    for one in traced:
        own = curve.names(one.ground)
        names |= own
        where = f" of {one.exam.store.card.corpus_name}" if len(traced) > 1 else ""
        for x, reason in one.left_out.items():
            left_out[own.get(x, f"{x:g}") + where] = reason
    return CurveCard(
        name=curve.name,
        x_label=curve.x_label,
        scale=curve.scale,
        same_targets=curve.same_targets,
        x_names={f"{x:g}": name for x, name in names.items()},
        left_out=left_out,
    )
