"""The evaluation, top to bottom: questions, answers of the model, of its opponents, rows.

Every rank runs this alike and returns the same results; who writes them is the caller's affair.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.files import fingerprint
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import applicable
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Tree
from train.distributed import DistributedContext
from train.evaluation.config import EvaluationConfig
from train.evaluation.examples import pick_examples
from train.evaluation.opponents import (
    ByTask,
    Opponents,
    questions_fingerprint,
    score_baselines,
    wanted_baselines,
)
from train.evaluation.predictions import predict
from train.evaluation.questions import collect
from train.evaluation.results import DECODING, SCHEMA_VERSION, CorpusResult, Results, Row
from train.evaluation.rows import TaskScores, check_sampled, make_row
from train.evaluation.scores import TargetScores
from train.evaluation.swap import swapped_trees

log = logging.getLogger(__name__)

ScoresByTask = dict[str, TargetScores]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said in one exam: by task, and to the first pairs of items the other way."""

    scores: ScoresByTask = field(default_factory=dict)
    swapped: ScoresByTask = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A model to score: loaded when its turn comes, so that two never share the memory."""

    name: str
    load: Callable[[], torch.nn.Module]
    """gives a model on the context's device"""
    weights_hash: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Results and the examples that go with them."""

    results: Results
    examples: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """All questions to one corpus."""

    store: TokenStore
    tasks: tuple[Task, ...]
    trees: list[Tree]
    asked: ByTask
    validation: ByTask
    skipped: dict[str, str]

    @property
    def users(self) -> int:
        """Users who are asked about."""
        return len({q.moment.user for qs in self.asked.values() for q in qs} - {-1})

    @property
    def targets(self) -> int:
        """Targets of all tasks."""
        return sum(map(len, self.asked.values()))


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
        RuntimeError: targets expected and scored differ.
    """
    clock = _Clock()
    exams = [_prepare(store, tasks, mixture, config) for store in stores]
    if not any(exam.targets for exam in exams):
        raise ValueError(f"nothing to evaluate: {[exam.skipped for exam in exams]}")
    with clock.measure("model"):
        ours = _examine(trained, exams, context, config, swap=True)
    theirs = [Answers() for _ in exams]
    if untrained and config.with_untrained:
        with clock.measure("untrained"):
            theirs = _examine(untrained, exams, context, config, swap=False)
    with clock.measure("baselines"):
        opponents = [_oppose(exam, mixture, context, config, cache_folder) for exam in exams]
    all_of_them = list(zip(exams, ours, theirs, opponents, strict=True))
    with clock.measure("intervals"):
        rows = [row for each in all_of_them for row in _rows(*each, context, config)]
    seconds = clock.seconds()
    results = Results(
        schema_version=SCHEMA_VERSION,
        model=trained.name,
        model_hash=trained.weights_hash,
        untrained=untrained.name if untrained and config.with_untrained else None,
        phase=config.phase,
        phrasing=config.phrasing,
        decoding=DECODING,
        split_hash=_joined([store.card.split["hash"] for store in stores]),
        seed=config.seed,
        mixture_seed=mixture_seed,
        bootstrap=asdict(config.bootstrap) | {"unit": "user"},
        max_targets=config.max_targets,
        max_title_targets=config.max_title_targets,
        world_size=context.world_size,
        seconds=seconds,
        targets_per_second=sum(exam.targets for exam in exams) / max(seconds["model"], 1e-9),
        corpora=[_corpus(exam, own, other) for exam, own, _, other in all_of_them],
        rows=rows,
    )
    return Evaluation(results=results, examples=_examples(exams, ours))


def _examples(exams: Sequence[Exam], ours: Sequence[Answers]) -> list[dict[str, Any]]:
    return [
        example
        for exam, own in zip(exams, ours, strict=True)
        for example in pick_examples(exam.store, exam.tasks, exam.trees, own.scores)
    ]


def _prepare(
    store: TokenStore, tasks: Sequence[Task], mixture: MixtureConfig, config: EvaluationConfig
) -> Exam:
    skipped = {t.name: reason for t in tasks if (reason := applicable(t, store)) is not None}
    wanted = [task for task in tasks if task.name not in skipped]
    wanted_baselines(wanted)  # a wrong name stops here, not after an hour
    phase = Phase[config.phase.upper()]
    trees = _trees(store, wanted, phase, mixture, config)
    asked = collect(trees, wanted)
    for task in wanted:
        check_sampled(task, asked[task.name], store)
        if not asked[task.name]:
            skipped[task.name] = f"no event of the {config.phase} phase can be asked about"
    # Settings chosen on the questions that are then answered would flatter the baselines.
    validation: ByTask = {}
    if phase != Phase.VALIDATION and config.with_baselines:
        validation = collect(_trees(store, wanted, Phase.VALIDATION, mixture, config), wanted)
    return Exam(
        store=store,
        tasks=tuple(wanted),
        trees=trees,
        asked=asked,
        validation=validation,
        skipped=skipped,
    )


def _trees(
    store: TokenStore,
    tasks: Sequence[Task],
    phase: Phase,
    mixture: MixtureConfig,
    config: EvaluationConfig,
) -> list[Tree]:
    """The questions of a phase; those answered by a title come last and are fewer."""
    trees: list[Tree] = []
    most_titles = min(config.max_targets, config.max_title_targets)
    for titles, most in ((False, config.max_targets), (True, most_titles)):
        indices = [i for i, task in enumerate(tasks) if (task.kind == "title") == titles]
        if not indices:
            continue
        part = EvaluationSet(
            store,
            [tasks[i] for i in indices],
            phase=phase,
            config=mixture,
            seed=config.seed,
            max_targets=most,
            phrasing=config.phrasing,
        )
        trees += [_renumbered(part[i], indices) for i in range(len(part))]
    return trees


def _renumbered(tree: Tree, indices: Sequence[int]) -> Tree:
    """The tree with task numbers of the whole list."""
    branches = tuple(replace(branch, task=indices[branch.task]) for branch in tree.branches)
    return replace(tree, branches=branches)


def _examine(
    contestant: Contestant,
    exams: Sequence[Exam],
    context: DistributedContext,
    config: EvaluationConfig,
    *,
    swap: bool,
) -> list[Answers]:
    """Load a model and let it answer all exams."""
    gc.collect()  # the model before this one may be held by reference cycles
    model = contestant.load()
    answers = []
    for exam in exams:
        name = f"{contestant.name} on {exam.store.card.corpus_name}"
        scores = _ask(model, exam, exam.trees, context, config, name)
        _check_complete(exam, scores)
        pairs = swapped_trees(exam.store, exam.tasks, exam.trees) if swap else []
        again = _ask(model, exam, pairs, context, config, f"{name}, pairs swapped")
        answers.append(Answers(scores, again))
    return answers


def _ask(
    model: torch.nn.Module,
    exam: Exam,
    trees: Sequence[Tree],
    context: DistributedContext,
    config: EvaluationConfig,
    description: str,
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
        description=description,
    )


def _check_complete(exam: Exam, scores: ScoresByTask) -> None:
    users = _users_scored(scores)
    targets = sum(map(len, scores.values()))
    if (users, targets) != (exam.users, exam.targets):
        raise RuntimeError(
            f"{exam.store.card.corpus_name}: {exam.users} users with {exam.targets} targets were "
            f"expected, {users} with {targets} were scored"
        )


def _users_scored(scores: ScoresByTask) -> int:
    return len({int(g) for part in scores.values() for g in part.groups_N if g >= 0})


def _oppose(
    exam: Exam,
    mixture: MixtureConfig,
    context: DistributedContext,
    config: EvaluationConfig,
    cache_folder: Path | None,
) -> Opponents:
    if not config.with_baselines:
        return Opponents()
    return score_baselines(
        exam.store,
        [task for task in exam.tasks if exam.asked[task.name]],
        (exam.validation, exam.asked),
        mixture,
        context,
        seed=config.seed,
        trees=config.baseline_trees,
        cache_folder=cache_folder,
    )


def _rows(
    exam: Exam,
    ours: Answers,
    theirs: Answers,
    opponents: Opponents,
    context: DistributedContext,
    config: EvaluationConfig,
) -> list[Row]:
    """A row per task with targets; the ranks share the resampling."""
    tasks = [task for task in exam.tasks if exam.asked[task.name]]
    mine: dict[str, Row] = {}
    for task in tasks[context.rank :: context.world_size]:
        scored = TaskScores(
            task=task,
            asked=exam.asked[task.name],
            model=ours.scores[task.name],
            swapped=ours.swapped.get(task.name),
            untrained=theirs.scores.get(task.name),
            baselines=opponents.of(task.name),
        )
        mine[task.name] = make_row(exam.store, scored, config.bootstrap)
    rows = {name: row for part in context.all_gather_object(mine) for name, row in part.items()}
    return [rows[task.name] for task in tasks]


def _corpus(exam: Exam, ours: Answers, opponents: Opponents) -> CorpusResult:
    card = exam.store.card
    return CorpusResult(
        name=card.corpus_name,
        store_fingerprint=card.fingerprint,
        corpus_fingerprint=card.corpus_fingerprint,
        split_hash=card.split["hash"],
        split=dict(card.split),
        set_fingerprint=questions_fingerprint(exam.asked),
        users_expected=exam.users,
        users_scored=_users_scored(ours.scores),
        targets_expected=exam.targets,
        targets_scored=sum(map(len, ours.scores.values())),
        skipped=exam.skipped,
        baseline_settings=opponents.settings,
    )


def _joined(hashes: Sequence[str]) -> str:
    """One hash as it is, several as the hash of all."""
    return hashes[0] if len(hashes) == 1 else fingerprint(list(hashes))


@dataclass(slots=True)
class _Clock:
    """Seconds of each part, and of all."""

    parts: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.parts[name] = time.monotonic() - began
        log.info("evaluation: %s took %.1f s", name, self.parts[name])

    def seconds(self) -> dict[str, float]:
        total = time.monotonic() - self.began
        return {name: round(s, 3) for name, s in {**self.parts, "total": total}.items()}
