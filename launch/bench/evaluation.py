"""How fast targets are scored, and how good our sequence models are where others can be compared.

The protocol is that of the field, so that figures of other libraries stand beside ours: MovieLens-
100K, each user's last event is the test and the one before it the validation, order by time (events
of one second in the order of the file), the newest 50 events are read, all films are ranked.
Libraries differ in whether films of the history stay in the ranking: both figures are given.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.corpus import Corpus
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks, applicable
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.consumed import plan_minus_consumed
from train.distributed import DistributedContext
from train.errors import CheckpointError
from train.evaluation.baselines.sequence import THOROUGH, GRU4RecBaseline, SASRecBaseline
from train.evaluation.config import EvaluationConfig
from train.evaluation.exam import phase_trees
from train.evaluation.predictions import predict
from train.evaluation.results import FOLDER, read_results
from train.sequences import SequenceData, rank_targets
from train.student_tuning import tune_student
from train.students import StudentConfig

log = logging.getLogger(__name__)

SHAPE = ModelShape(
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=6,
    num_attention_heads=6,
    num_key_value_heads=2,
)
TARGETS = 200
FEWEST_EVENTS = 5
Candidates = Mapping[str, Sequence[Mapping[str, Any]]]
STUDENTS: Candidates = {
    baseline.name: [{**THOROUGH, **settings} for settings in baseline.candidates]
    for baseline in (SASRecBaseline, GRU4RecBaseline)
}


def bench_evaluation(
    corpus: Corpus | None, store: TokenStore | None, run: Path | None
) -> dict[str, float]:
    """Measure what is given.

    Args:
        corpus: MovieLens-100K, to fit and rank our sequence models on.
        store: a token store, to score targets of with a small untrained model on this process.
        run: a run that was evaluated, to count its tasks and to compare its plan with what it
            consumed.

    Returns:
        Flat metrics: `evaluation.targets_per_s`; `evaluation.STUDENT_ndcg10_ml100k` and `_hr10_`,
        each also with `_without_history`; of a run `evaluation.tasks_beating_baseline`,
        `evaluation.tasks_total` and `mixture.plan_minus_consumed`.

    Raises:
        ValueError: the run has no result.
    """
    metrics: dict[str, float] = {}
    if store is not None:
        metrics["evaluation.targets_per_s"] = targets_per_second(store)
    if corpus is not None:
        metrics |= rank_students(leave_last_sequences(corpus))
    if run is not None:
        metrics |= of_run(run)
    return metrics


def targets_per_second(store: TokenStore) -> float:
    """Targets of all tasks that are answered by one token, per second of one process."""
    tasks = [t for t in all_tasks().values() if not t.is_written and not t.only_if_named]
    tasks = [task for task in tasks if applicable(task, store) is None]
    config = EvaluationConfig(max_targets=TARGETS)
    trees = phase_trees(store, tasks, Phase.TEST, MixtureConfig(), config)
    model = build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=0)
    began = time.perf_counter()
    scores = predict(model, trees, tasks, store, DistributedContext(), max_tokens=config.max_tokens)
    return sum(map(len, scores.values())) / (time.perf_counter() - began)


def leave_last_sequences(corpus: Corpus) -> SequenceData:
    """Users of at least five events, split leave-last, each event a step of its own in time."""
    events = corpus.events
    users, user_E = np.unique(events["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    _, item_E = np.unique(events["item_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    time_E = events["timestamp"].cast("int64").to_numpy()
    enough_E = np.bincount(user_E, minlength=len(users))[user_E] >= FEWEST_EVENTS
    rows = np.flatnonzero(enough_E)
    rows = rows[np.lexsort((rows, time_E[rows], user_E[rows]))]
    counts_U = np.bincount(user_E[rows], minlength=len(users))
    stops_U = np.cumsum(counts_U)
    last_U = stops_U[counts_U > 0] - 1
    phase_E = np.full(len(rows), Phase.TRAIN, np.int8)
    phase_E[last_U], phase_E[last_U - 1] = Phase.TEST, Phase.VALIDATION
    return SequenceData.from_events(
        n_items=int(item_E.max()) + 1,
        user_offsets_U1=np.concatenate([[0], stops_U]),
        item_E=item_E[rows].astype(np.int32),
        time_E=np.arange(len(rows)),
        phase_E=phase_E,
    )


def rank_students(data: SequenceData, students: Candidates = STUDENTS) -> dict[str, float]:
    """Fit each student, its settings and epoch chosen on validation, and rank the test targets."""
    metrics = {}
    for name, candidates in students.items():
        student, _ = tune_student(data, [StudentConfig(**settings) for settings in candidates])
        log.info("%s: %s, epoch %d", name, student.config, student.best_epoch)
        for suffix, excluded in (("", False), ("_without_history", True)):
            ranks = rank_targets(student.item_scores, data, data.test, exclude_history=excluded)
            metrics[f"evaluation.{name}_ndcg10_ml100k{suffix}"] = float(ranks.ndcg(10).mean())
            metrics[f"evaluation.{name}_hr10_ml100k{suffix}"] = float(ranks.hits(10).mean())
    return metrics


def of_run(run: Path) -> dict[str, float]:
    """What a run's result says, and how far it is from its plan where it has come to its end."""
    rows = read_results(run / FOLDER / "results.json").rows
    metrics = {
        "evaluation.tasks_beating_baseline": float(sum(bool(row.beats_best) for row in rows)),
        "evaluation.tasks_total": float(len(rows)),
    }
    try:
        metrics["mixture.plan_minus_consumed"] = float(plan_minus_consumed(run))
    except CheckpointError as error:
        log.warning("mixture.plan_minus_consumed is left out: %s", error)
    return metrics
