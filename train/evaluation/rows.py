"""From scores to rows: metrics, intervals and paired comparisons of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from train.evaluation import swap
from train.evaluation.baselines.base import excluded_items
from train.evaluation.bootstrap import Bootstrap, BootstrapConfig, Resampled
from train.evaluation.metrics import (
    IMPRESSION_METRICS,
    SAMPLED,
    Metric,
    find_metric,
    secondary_metrics,
    users_with_one_class,
)
from train.evaluation.questions import Asked, targets_fingerprint
from train.evaluation.results import Range, Row, Slice, number, unjudged
from train.evaluation.scores import TargetScores
from train.evaluation.temperature import with_temperature

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
    sampled: bool = False
    """whether a sampler drew the candidates"""
    temperature: float | None = None
    """of the model, fitted on validation"""


def make_row(store: TokenStore, scored: TaskScores, config: BootstrapConfig) -> Row:
    """Metrics of one task with intervals, and the paired comparisons."""
    task, model = scored.task, scored.model
    metric = find_metric(task.metric)
    bootstrap = Bootstrap(model.groups_N, config, stream=task.name)
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
    rarer = None
    if task.kind == "label" and len(task.labels) == 2:
        rarer = int(np.bincount(model.labels_N, minlength=2).min())
    verdicts = {
        name: None if unjudged(rarer, bootstrap.n_groups) else _beats(difference)
        for name, difference in against.items()
    }
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
        beats_untrained=verdicts["untrained"],
        beats_trivial=verdicts["trivial"],
        beats_best=verdicts["best"],
        label_mass=None if task.is_written else number(float(model.label_mass_N.mean())),
        secondary=_secondary(store, scored),
        rarer_answer=rarer,
        users_with_one_class=users_with_one_class(model) if len(task.labels) == 2 else 0,
        slices=_slices(store, scored, metric, config),
        level=metric.level,
        sampled=scored.sampled,
        temperature=scored.temperature,
        targets_hash=targets_fingerprint(store, scored.asked),
        **_ranking_facts(store, scored),
    )


def paired_difference(
    task: Task, ours: TargetScores, theirs: TargetScores, config: BootstrapConfig
) -> Range:
    """How much better one scorer is than another on the same targets, in the task's metric."""
    bootstrap = Bootstrap(ours.groups_N, config, stream=task.name)
    metric = find_metric(task.metric)
    pair = (bootstrap.resample(metric, scores) for scores in (ours, theirs))
    return Range.of(bootstrap.difference(*pair))


def has_sampled_candidates(task: Task, asked: Sequence[Asked], store: TokenStore) -> bool:
    """Whether a sampler drew the candidates; refuse a task whose metric does not say so.

    A candidate that the user neither met nor found in a search is a sampled negative: the number
    depends on the sampler and must not be read as a full ranking.

    Raises:
        ValueError: the metric's name lacks "sampled".
    """
    if task.metric.startswith(SAMPLED):
        return True
    for one in asked if task.kind != "title" else ():
        if one.moment.user < 0:
            continue
        own = slice(*store.user_offsets_U1[one.moment.user : one.moment.user + 2])
        met = set(store.event_item_E[own].tolist())
        if store.searches is not None:
            found = store.searches.of(one.moment.user)
            met.update(store.searches.item_S[found.start : found.stop].tolist())
        sampled = set(one.question.candidates) - met
        if sampled:
            raise ValueError(
                f"task {task.name!r} asks about item {sampled.pop()}, which user {one.moment.user} "
                f"never met: a sampled negative. Call its metric {SAMPLED}{task.metric}"
            )
    return False


def _best(metric: Metric, values: Mapping[str, float]) -> str | None:
    defined = {name: value for name, value in values.items() if not np.isnan(value)}
    return max(defined, key=lambda name: metric.sign * defined[name]) if defined else None


def _difference(bootstrap: Bootstrap, ours: Resampled, theirs: TargetScores | None) -> Range | None:
    if theirs is None:
        return None
    return Range.of(bootstrap.difference(ours, bootstrap.resample(ours.metric, theirs)))


def _beats(difference: Range | None) -> bool | None:
    return None if difference is None or difference.value is None else difference.above_zero


def _secondary(store: TokenStore, scored: TaskScores) -> dict[str, float | None]:
    task, model = scored.task, scored.model
    shown = model.requests_N is not None
    names = secondary_metrics(task.kind, task.metric, len(task.labels), model.has_gains, shown)
    if shown and not _whole_requests(store, model):
        names = tuple(f"{SAMPLED}{name}" if name in IMPRESSION_METRICS else name for name in names)
    found = {name: number(find_metric(name)(model)) for name in names}
    found = {name: value for name, value in found.items() if value is not None}
    prefix = SAMPLED if task.metric.startswith(SAMPLED) else ""
    if scored.temperature is not None:
        calibrated = with_temperature(model, scored.temperature)
        for name in ("ece", "logloss"):
            found[f"{prefix}{name}_calibrated"] = number(find_metric(name)(calibrated))
    if scored.swapped is not None and len(scored.swapped):
        found[prefix + swap.NAME] = swap.consistency(model, scored.swapped)
    return found


def _whole_requests(store: TokenStore, model: TargetScores) -> bool:
    """Whether all that was shown is asked about: the rank of a part of it is a sampled rank."""
    assert model.requests_N is not None, "the task asks what was shown"
    firsts, counts = np.unique(model.requests_N[model.requests_N >= 0], return_counts=True)
    stops = firsts + counts
    opens_E = store.event_opens_request_E
    ends = (stop == len(opens_E) or bool(opens_E[stop]) for stop in stops.tolist())
    return len(np.unique(model.subjects_N)) == len(model) and all(ends)


def _ranking_facts(store: TokenStore, scored: TaskScores) -> dict[str, Any]:
    """What a ranking of the catalog has to say of itself."""
    if scored.task.kind != "title":
        return {}
    return {
        "ranked_items": float(scored.model.ranked_N.mean()),
        "excluded_items": float(excluded_items(store, scored.asked).mean()),
        "unreachable": scored.model.unreachable,
        "invalid_rate": 0.0,  # only titles of the catalog are scored: nothing else can be answered
    }


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
        bootstrap = Bootstrap(part.groups_N, config, stream=f"{scored.task.name}/{name}")
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
