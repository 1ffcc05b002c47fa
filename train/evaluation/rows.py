"""From scores to rows: metrics, intervals and paired comparisons of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation import swap
from train.evaluation.bootstrap import Bootstrap, BootstrapConfig, Resampled
from train.evaluation.metrics import (
    SAMPLED,
    Metric,
    find_metric,
    secondary_metrics,
    users_with_one_class,
)
from train.evaluation.questions import Asked
from train.evaluation.results import Range, Row, Slice, number
from train.evaluation.scores import TargetScores

_KNOWN_EVENTS = ((0, 0, "0"), (1, 5, "1-5"), (6, 20, "6-20"), (21, np.inf, "21+"))
"""Buckets of a user's history: how a recommender does for those it hardly knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScores:
    """Everything said about the targets of one task."""

    task: Task
    asked: Sequence[Asked]
    model: TargetScores
    swapped: TargetScores | None
    untrained: TargetScores | None
    baselines: Mapping[str, TargetScores]


def make_row(store: TokenStore, scored: TaskScores, config: BootstrapConfig) -> Row:
    """Metrics of one task with intervals, and the paired comparisons."""
    task, model = scored.task, scored.model
    metric = find_metric(task.metric)
    bootstrap = Bootstrap(model, config, stream=task.name)
    ours = bootstrap.resample(metric, model)
    values = {name: metric(scores) for name, scores in scored.baselines.items()}
    trivial = next((name for name in task.baselines if name in values), None)
    best = _best(metric, values)

    def gap(theirs: TargetScores | None) -> Range | None:
        return _difference(bootstrap, ours, theirs)

    against = {
        "untrained": gap(scored.untrained),
        "trivial": gap(scored.baselines.get(trivial or "")),
        "best": gap(scored.baselines.get(best or "")),
    }
    interval = bootstrap.interval(ours)
    return Row(
        corpus=store.card.corpus_name,
        task=task.name,
        code=task.code,
        family=task.family,
        tier=task.tier,
        kind=task.kind,
        n=len(model),
        users=bootstrap.n_groups,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        baselines={name: number(value) for name, value in values.items()},
        trivial=trivial,
        baseline=best,
        baseline_value=number(values[best]) if best else None,
        untrained_value=number(metric(scored.untrained)) if scored.untrained else None,
        difference_to_untrained=against["untrained"],
        difference_to_trivial=against["trivial"],
        difference_to_best=against["best"],
        beats_untrained=_beats(against["untrained"]),
        beats_trivial=_beats(against["trivial"]),
        beats_best=_beats(against["best"]),
        label_mass=None if task.kind == "title" else number(float(model.label_mass_N.mean())),
        secondary=_secondary(scored),
        users_with_one_class=users_with_one_class(model) if len(task.labels) == 2 else 0,
        slices=_slices(store, scored, metric, config),
    )


def check_sampled(task: Task, asked: Sequence[Asked], store: TokenStore) -> None:
    """Refuse a task whose candidates were sampled, but whose metric does not say so.

    A candidate that is no later event of the user is a sampled negative: the number depends on the
    sampler and must not be read as a full ranking.

    Raises:
        ValueError: the metric's name lacks "sampled".
    """
    if task.metric.startswith(SAMPLED) or task.kind == "title":
        return
    for one in asked:
        if one.moment.user < 0:
            continue
        stop = int(store.user_offsets_U1[one.moment.user + 1])
        later = set(store.event_item_E[one.moment.cut : stop].tolist())
        sampled = set(one.question.candidates) - later
        if sampled:
            raise ValueError(
                f"task {task.name!r} asks about item {sampled.pop()}, which user {one.moment.user} "
                f"never met: a sampled negative. Call its metric {SAMPLED}{task.metric}"
            )


def _best(metric: Metric, values: Mapping[str, float]) -> str | None:
    defined = {name: value for name, value in values.items() if not np.isnan(value)}
    return max(defined, key=lambda name: metric.sign * defined[name]) if defined else None


def _difference(bootstrap: Bootstrap, ours: Resampled, theirs: TargetScores | None) -> Range | None:
    if theirs is None:
        return None
    return Range.of(bootstrap.difference(ours, bootstrap.resample(ours.metric, theirs)))


def _beats(difference: Range | None) -> bool | None:
    return None if difference is None or difference.value is None else difference.above_zero


def _secondary(scored: TaskScores) -> dict[str, float | None]:
    task, model = scored.task, scored.model
    graded = bool(model.gains_NK.size) and not np.isnan(model.gains_NK).all()
    names = secondary_metrics(task.kind, task.metric, len(task.labels), graded)
    found = {name: number(find_metric(name)(model)) for name in names}
    found = {name: value for name, value in found.items() if value is not None}
    if scored.swapped is not None and len(scored.swapped):
        found[swap.NAME] = swap.consistency(model, scored.swapped)
    return found


def _slices(
    store: TokenStore, scored: TaskScores, metric: Metric, config: BootstrapConfig
) -> list[Slice]:
    """The headline metric by how many events of the user were known at the moment."""
    if scored.task.kind != "label" or scored.task.history not in ("full", "cold"):
        return []
    known_N = np.array(
        [one.moment.cut - int(store.user_offsets_U1[one.moment.user]) for one in scored.asked]
    )
    slices = []
    for low, high, name in _KNOWN_EVENTS:
        part = scored.model.take((known_N >= low) & (known_N <= high))
        if not len(part):
            continue
        bootstrap = Bootstrap(part, config, stream=f"{scored.task.name}/{name}")
        interval = bootstrap.interval(bootstrap.resample(metric, part))
        slices.append(
            Slice(
                name=name,
                n=len(part),
                users=bootstrap.n_groups,
                value=number(interval.value),
                low=number(interval.low),
                high=number(interval.high),
            )
        )
    return slices
