"""Baselines of an evaluation: fitted and scored once per store and set of questions, then cached.

The cache holds scores, not models: `RUN/evaluation/baselines-HASH.json`, where the hash is that of
everything the scores depend on. The ranks share the fitting.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_write, fingerprint
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tasks import applicable
from data_pipeline.tasks.base import Task
from train.distributed import DistributedContext
from train.evaluation.baselines import Questions, find_baseline
from train.evaluation.questions import (
    Asked,
    Place,
    answered,
    collect,
    questions_fingerprint,
)
from train.evaluation.scores import TargetScores
from train.evaluation.texts import answered_by_text
from train.progress import show_progress

log = logging.getLogger(__name__)

CACHE_VERSION = 2
"""Raise it when a baseline changes: cached scores of the old one are then left alone."""

ByTask = dict[str, list[Asked]]


@dataclass(slots=True)
class Opponents:
    """Scores of every baseline: `scores[baseline][task]`."""

    scores: dict[str, dict[str, TargetScores]] = field(default_factory=dict)
    settings: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def of(self, task: str) -> dict[str, TargetScores]:
        """The scores of one task by baseline."""
        return {name: by_task[task] for name, by_task in self.scores.items() if task in by_task}


def wanted_baselines(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Which baseline answers which tasks.

    Raises:
        ValueError: a task names a baseline that does not exist or cannot answer its kind.
    """
    wanted: dict[str, list[Task]] = {}
    for task in tasks:
        for name in task.baselines:
            if task.kind not in find_baseline(name).kinds:
                raise ValueError(
                    f"task {task.name!r} is of kind {task.kind!r}, which baseline {name!r} cannot "
                    "answer: take it out of the task's `baselines`"
                )
            wanted.setdefault(name, []).append(task)
    return wanted


def score_baselines(
    store: TokenStore,
    tasks: Sequence[Task],
    asked: tuple[ByTask, ByTask],
    mixture: MixtureConfig,
    context: DistributedContext,
    *,
    seed: int,
    trees: int,
    trials: int,
    cache_folder: Path | None,
) -> Opponents:
    """Score every baseline of the tasks on the test questions; every rank gets all scores.

    Args:
        store: the token store.
        tasks: tasks of the evaluation that apply to the store.
        asked: validation questions (to choose settings by) and the questions to answer, by task.
        mixture: how training questions are drawn.
        context: this rank and the others; each fits its share of the baselines.
        seed: of the fits and of the training questions.
        trees: training trees to draw.
        trials: settings that each costly baseline tries on validation.
        cache_folder: where scores are cached; None = nowhere.
    """
    validation, test = asked
    # Item means and factors are of all users in any case; so are the questions learned from.
    mixture = replace(mixture, user_fraction=1.0)
    wanted = wanted_baselines(tasks)
    depends_on = [
        *(CACHE_VERSION, store.fingerprint, seed, trees, trials, asdict(mixture)),
        *(questions_fingerprint(part) for part in asked),
    ]
    cache = cache_folder / f"baselines-{fingerprint(depends_on)}.json" if cache_folder else None
    found = context.broadcast_object(_read(cache, store, wanted, test))
    missing = [name for name in wanted if name not in found.scores]
    if missing:
        train = _training_questions(store, tasks, mixture, seed, trees)
        questions = (train, validation, test)
        fitted = _fit_share(store, missing, wanted, questions, context, seed, trials)
        for part in context.all_gather_object(fitted):
            found.scores.update(part.scores)
            found.settings.update(part.settings)
        if cache and context.is_main:
            _write(cache, found)
    ordered = {name: found.scores[name] for name in wanted}
    return Opponents(ordered, {n: found.settings[n] for n in wanted if n in found.settings})


def _training_questions(
    store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig, seed: int, trees: int
) -> ByTask:
    """Questions as training asks them, of the tasks whose baselines learn from answers."""
    asked: ByTask = {}
    # Of a mixture for each kind, so that texts asked for as well change no label's questions.
    for kind in ("label", "text"):
        names = {t.name: 1.0 for t in tasks if t.kind == kind and t.tier == "T1"}
        if any(applicable(t, store) is None for t in tasks if t.name in names):
            # Only questions are read, and a store of one action has no past ones to supervise.
            alone = replace(
                mixture,
                tasks=names,
                store_weights=(),
                moments_per_tree=1,
                history_loss_weight=0.0,
            )
            drawn = Mixture([store], alone, seed=seed)
            asked |= collect((drawn[index] for index in range(trees)), drawn.tasks)
    return asked


def _fit_share(
    store: TokenStore,
    names: Sequence[str],
    wanted: Mapping[str, Sequence[Task]],
    asked: tuple[ByTask, ByTask, ByTask],
    context: DistributedContext,
    seed: int,
    trials: int,
) -> Opponents:
    # Slow ones go to the last ranks, one each, so that the first can do all the quick ones.
    slow = [name for name in names if find_baseline(name).slow]
    rank_of = {name: (-1 - i) % context.world_size for i, name in enumerate(slow)}
    mine = [name for name in names if rank_of.get(name, 0) == context.rank]
    train, validation, test = asked
    share = Opponents()
    total = sum(1 + len(wanted[name]) for name in mine)
    progress = show_progress(total, "baselines", silent=not context.is_main)
    for name in mine:
        began = time.monotonic()
        baseline = find_baseline(name)(store, seed)
        baseline.trials = trials
        baseline.fit()
        progress.advance(note=name)
        share.scores[name] = {}
        for task in wanted[name]:
            questions = Questions(
                train=train.get(task.name, []),
                validation=validation.get(task.name, []),
                test=test[task.name],
            )
            share.scores[name][task.name] = baseline.answer(task, questions)
            progress.advance()
        share.settings[name] = dict(baseline.settings)
        log.info("baseline %s: %.1f s %s", name, time.monotonic() - began, baseline.settings or "")
    progress.close()
    return share


# --- the cache -----------------------------------------------------------------------------------


def _write(path: Path, opponents: Opponents) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema_version": CACHE_VERSION,
        "settings": opponents.settings,
        "scores": {
            name: {task: _plain(scores) for task, scores in by_task.items()}
            for name, by_task in opponents.scores.items()
        },
    }
    atomic_write(path, json.dumps(content))


def _plain(scores: TargetScores) -> dict[str, Any]:
    if scores.texts is not None:
        return {"said": scores.texts.said_N.tolist()}
    rows = zip(scores.probabilities_NK, scores.n_choices_N, strict=True)
    return {
        "probabilities": [row[:n].tolist() for row, n in rows],
        "better": scores.better_N.tolist(),
        "tied": scores.tied_N.tolist(),
        "ranked": scores.ranked_N.tolist(),
    }


def _read(
    path: Path | None, store: TokenStore, wanted: Mapping[str, Sequence[Task]], test: ByTask
) -> Opponents:
    """What the cache holds of the wanted baselines; nothing where it is missing or damaged."""
    opponents = Opponents()
    if path is None or not path.is_file():
        return opponents
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, tasks in wanted.items():
            held = content["scores"].get(name, {})
            if all(task.name in held for task in tasks):
                opponents.scores[name] = {
                    task.name: _scores(store, task, test[task.name], held[task.name])
                    for task in tasks
                }
                opponents.settings[name] = content["settings"].get(name, {})
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        log.warning("%s is damaged (%s): the baselines are fitted again", path, error)
        return Opponents()
    return opponents


def _scores(
    store: TokenStore, task: Task, asked: Sequence[Asked], held: dict[str, Any]
) -> TargetScores:
    if task.kind == "text":
        return answered_by_text(store, task, asked, held["said"])
    if task.kind == "title":
        counts = zip(held["better"], held["tied"], held["ranked"], strict=True)
        return answered(task, asked, places=[Place(*count) for count in counts])
    return answered(task, asked, probabilities=held["probabilities"])
