"""An exam: all questions to one corpus, drawn the same way for every model, rank and repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import applicable
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Tree
from train.evaluation.baselines.base import excluded_items
from train.evaluation.config import EvaluationConfig
from train.evaluation.opponents import ByTask, wanted_baselines
from train.evaluation.questions import Asked, collect, group_of
from train.evaluation.results import nothing_to_ask
from train.evaluation.rows import has_sampled_candidates
from train.evaluation.scores import TargetScores

ScoresByTask = dict[str, TargetScores]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """All questions to one corpus."""

    store: TokenStore
    tasks: tuple[Task, ...]
    trees: list[Tree]
    asked: ByTask
    validation: ByTask
    """to choose the baselines' settings by"""
    calibration: list[Tree]
    """to fit temperatures on; of the validation phase as well"""
    sampled: frozenset[str]
    """tasks whose candidates a sampler drew"""
    skipped: dict[str, str]

    @property
    def users(self) -> int:
        """Users who are asked about."""
        groups = {group_of(question) for part in self.asked.values() for question in part}
        return sum(group >= 0 for group in groups)

    @property
    def targets(self) -> int:
        """Targets of all tasks."""
        return sum(map(len, self.asked.values()))

    @property
    def answerable(self) -> list[Task]:
        """Tasks that have targets."""
        return [task for task in self.tasks if self.asked[task.name]]


def prepare_exam(
    store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig, config: EvaluationConfig
) -> Exam:
    """Draw the questions of an evaluation.

    Raises:
        ValueError: a task names an unknown metric or baseline, or a sampled metric by a full one's
            name.
    """
    skipped = {t.name: reason for t in tasks if (reason := applicable(t, store)) is not None}
    wanted = [task for task in tasks if task.name not in skipped]
    wanted_baselines(wanted)  # a wrong name stops here, not after an hour
    phase = Phase[config.phase.upper()]
    trees = phase_trees(store, wanted, phase, mixture, config)
    asked = collect(trees, wanted)
    sampled = {t.name for t in wanted if has_sampled_candidates(t, asked[t.name], store)}
    for task in wanted:
        if not asked[task.name]:
            skipped[task.name] = nothing_to_ask(config.phase)
    # What is chosen on the questions that are then answered would flatter whoever chose.
    earlier = phase != Phase.VALIDATION
    validation: ByTask = {}
    if earlier and config.with_baselines:
        drawn = phase_trees(store, wanted, Phase.VALIDATION, mixture, config)
        validation = collect(drawn, wanted)
    calibration: list[Tree] = []
    if earlier and config.calibration_targets:
        few = replace(config, max_targets=config.calibration_targets)
        calibration = phase_trees(store, wanted, Phase.VALIDATION, mixture, few, with_written=False)
    return Exam(
        store=store,
        tasks=tuple(wanted),
        trees=trees,
        asked=asked,
        validation=validation,
        calibration=calibration,
        sampled=frozenset(sampled),
        skipped=skipped,
    )


def phase_trees(
    store: TokenStore,
    tasks: Sequence[Task],
    phase: Phase,
    mixture: MixtureConfig,
    config: EvaluationConfig,
    *,
    with_written: bool = True,
) -> list[Tree]:
    """The questions of a phase; those answered by a title or text come last and are fewer."""
    trees: list[Tree] = []
    by_most: dict[int, list[int]] = {}
    for i, task in enumerate(tasks):
        if with_written or not task.is_written:
            most = config.most_targets(task.kind, len(store.statistics.known_items))
            by_most.setdefault(most, []).append(i)
    for most, indices in sorted(by_most.items(), reverse=True):
        part = EvaluationSet(
            store,
            [tasks[i] for i in indices],
            phase=phase,
            config=mixture,
            seed=config.seed,
            max_targets=most,
            phrasing=config.phrasing,
            whole_impressions=config.whole_impressions,
        )
        trees += [_renumbered(part[i], indices) for i in range(len(part))]
    return trees


def check_complete(exam: Exam, scores: ScoresByTask) -> None:
    """Every target was scored, and every ranking was of the full catalog without the history.

    Raises:
        RuntimeError: users, targets or ranked items expected and scored differ.
    """
    users, targets = users_scored(scores), sum(map(len, scores.values()))
    if (users, targets) != (exam.users, exam.targets):
        raise RuntimeError(
            f"{exam.store.card.corpus_name}: {exam.users} users with {exam.targets} targets were "
            f"expected, {users} with {targets} were scored"
        )
    for task in exam.tasks:
        if task.kind == "title":
            check_full_ranking(exam.store, task, exam.asked[task.name], scores[task.name])


def check_full_ranking(
    store: TokenStore, task: Task, asked: Sequence[Asked], scores: TargetScores
) -> None:
    """Every item of the catalog that the user had not met was ranked.

    Raises:
        RuntimeError: fewer or more were.
    """
    expected_N = len(store.statistics.known_items) - excluded_items(store, asked)
    wrong = np.flatnonzero(scores.ranked_N != expected_N)
    if len(wrong):
        raise RuntimeError(
            f"{store.card.corpus_name}: a target of {task.name!r} was ranked among "
            f"{scores.ranked_N[wrong[0]]} items instead of all {expected_N[wrong[0]]}: a ranking "
            "of a part of the catalog is no result"
        )


def users_scored(scores: ScoresByTask) -> int:
    """Users with an answer."""
    return len({int(g) for part in scores.values() for g in part.groups_N if g >= 0})


def _renumbered(tree: Tree, indices: Sequence[int]) -> Tree:
    """The tree with task numbers of the whole list."""
    branches = tuple(replace(branch, task=indices[branch.task]) for branch in tree.branches)
    return replace(tree, branches=branches)
