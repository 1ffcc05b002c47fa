"""What a model writes before a curve is measured: a text at each moment of an exam."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from data_pipeline.draws import Draws
from data_pipeline.render import Asked, BranchWriter
from data_pipeline.splits import Phase
from data_pipeline.tasks.base import Task
from data_pipeline.tasks.view import Shelf, View
from data_pipeline.tree import Moment, Tree
from train.distributed import DistributedContext
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves.base import Ground, Written
from train.evaluation.metrics import find_metric
from train.evaluation.predictions import predict

log = logging.getLogger(__name__)


def write_first(
    model: torch.nn.Module,
    task: Task,
    ground: Ground,
    trees: Sequence[Tree],
    context: DistributedContext,
    config: EvaluationConfig,
) -> dict[Moment, Written]:
    """Let the model answer a text task behind the trunk of every tree; all ranks alike.

    Args:
        model: on the context's device.
        task: what is asked of a moment, at its first event.
        ground: of the trees' corpus.
        trees: an exam; their branches are not asked.
        context: this rank and the others.
        config: phase, phrasing and seed of the exam.

    Returns:
        What was said and what is right, at the moments where the question applies.
    """
    writer, shelf = BranchWriter(ground.store, [task]), Shelf(ground.store)
    phase, style = Phase[config.phase.upper()], ground.mixture.styles[0]
    asked: dict[Moment, Tree] = {}
    for tree in trees:
        moment = tree.moment
        if moment in asked:
            continue
        draws = Draws(config.seed, moment.cut)
        question = task.ask(View(shelf, moment, phase, draws, style), moment.cut)
        if question is not None:
            phrasing = writer.phrasing(0, draws, held_out=config.phrasing == "held_out")
            branches = writer.write([Asked(0, moment.cut, question, phrasing)])
            asked[moment] = Tree(corpus=0, moment=moment, trunk=tree.trunk, branches=branches)
    scores = predict(
        model,
        list(asked.values()),
        [task],
        ground.store,
        context,
        max_tokens=config.max_tokens,
        description=f"{task.name} on {ground.store.card.corpus_name}",
    )[task.name]
    value = find_metric(task.metric)(scores)
    log.info("%s: %d texts, %s %.4f", task.name, len(scores), task.metric, value)
    texts = scores.texts
    assert texts is not None, f"{task.name} is no text task"
    pairs = zip(texts.said_N, texts.right_N, strict=True)
    return {moment: Written(*pair) for moment, pair in zip(asked, pairs, strict=True)}
