"""A language model's answers to an evaluation set, computed by all ranks together.

Label and choice tasks: probabilities of the answer tokens at the answer cue, from fp32 logits.
Title tasks: the place of the right item among all known items that are not in the history, ranked
by log p(title | prompt). Text tasks: what the model writes, greedily. Nothing is sampled.

Trees of one micro-batch share what their trunks have in common, and titles are read behind a prompt
that was read once (`modeling.scoring`). Every micro-batch begins with an empty cache, so that its
scores do not depend on those that its rank answered before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch

from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Ids, Tree
from modeling.continuations import score_continuations
from modeling.scoring import Branch as ScoredBranch
from modeling.scoring import Request, Scorer
from train.distributed import DistributedContext
from train.evaluation.baselines.base import seen_items
from train.evaluation.config import MAX_NEW_TOKENS
from train.evaluation.questions import Asked, Place, answered
from train.evaluation.scores import TargetScores
from train.evaluation.texts import answered_by_text, write_texts
from train.evaluation.titles import place_of_title
from train.progress import show_progress

CACHE_BYTES = 1 << 30
"""Of trunks that trees of one micro-batch share."""

Key = tuple[int, int]
"""(tree, branch) of a target"""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One scored target, small enough to send to another rank."""

    probabilities: tuple[float, ...] = ()
    label_mass: float = float("nan")
    place: Place | None = None
    text: str = ""


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    trees: Sequence[Tree],
    tasks: Sequence[Task],
    store: TokenStore,
    context: DistributedContext,
    *,
    max_tokens: int,
    description: str = "scoring",
) -> dict[str, TargetScores]:
    """Score every target of the trees; every rank gets all of them.

    Args:
        model: a causal LM from `modeling.backbone`, on the context's device.
        trees: the evaluation set, the same on every rank.
        tasks: what `Branch.task` indexes.
        store: token store of the trees: its items are the catalog of title tasks.
        context: this rank and the others; rank r scores micro-batches r, r + world size, ... The
            micro-batches are the same for any number of ranks, and so are the scores.
        max_tokens: tokens of one micro-batch.
        description: shown with the progress.

    Raises:
        ValueError: logits are not finite, or a prompt is longer than the model's context.
        RuntimeError: a target was scored twice or not at all.
    """
    was_training = model.training
    model.eval()
    mine = list(_batches(trees, max_tokens))[context.rank :: context.world_size]
    # Counted in tokens: a title is ranked among all titles, so its tree is worth many others.
    catalog_tokens = int(store.title_lengths_N[store.statistics.known_items].sum())
    work = [_n_tokens(tree) + catalog_tokens * _has_title(tree) for tree in trees]
    total = sum(work[number] for numbers in mine for number in numbers)
    scorer = Scorer(model, cache_bytes=CACHE_BYTES, max_tokens=max_tokens)
    progress = show_progress(total, f"{description}, tokens", silent=not context.is_main)
    answers: dict[Key, _Answer] = {}
    for numbers in mine:
        scorer.cache.clear()
        answers.update(_answer_batch(scorer, trees, numbers, tasks, store))
        progress.advance(sum(work[number] for number in numbers))
    progress.close()
    model.train(was_training)
    merged = _merged(context.all_gather_object(answers), trees)
    return _by_task(merged, trees, tasks, store)


def _batches(trees: Sequence[Tree], max_tokens: int) -> Iterator[list[int]]:
    """Consecutive trees up to `max_tokens` tokens together; at least one, one alone with a title.

    A title is ranked among the whole catalog, which is as much work as a micro-batch. A trunk that
    the tree before has as well is not read again.
    """
    numbers: list[int] = []
    used = 0
    for number, tree in enumerate(trees):
        size = max_tokens if _has_title(tree) else _n_tokens(tree)
        shared = bool(numbers) and np.array_equal(tree.trunk, trees[numbers[-1]].trunk)
        if numbers and used + size - shared * len(tree.trunk) > max_tokens:
            yield numbers
            numbers, used, shared = [], 0, False
        numbers.append(number)
        used += size - shared * len(tree.trunk)
    if numbers:
        yield numbers


def _has_title(tree: Tree) -> bool:
    return any(not (len(b.choices) or b.question.text) for b in tree.branches)


def _n_tokens(tree: Tree) -> int:
    """Tokens that the tree's answers take; a text is written behind a prompt of its own."""
    texts = sum(bool(branch.question.text) for branch in tree.branches)
    tokens = len(tree.trunk) + sum(len(branch.tokens) for branch in tree.branches)
    return tokens + texts * (len(tree.trunk) + MAX_NEW_TOKENS)


def _answer_batch(
    scorer: Scorer,
    trees: Sequence[Tree],
    numbers: list[int],
    tasks: Sequence[Task],
    store: TokenStore,
) -> dict[Key, _Answer]:
    """Choose what offers choices, write what is to be written, rank what is a title."""
    chosen: list[Key] = []
    written: list[Key] = []
    titles: list[Key] = []
    for number in numbers:
        for place, branch in enumerate(trees[number].branches):
            kind = written if branch.question.text else chosen if len(branch.choices) else titles
            kind.append((number, place))
    prompts = [_whole_prompt(trees[number], place) for number, place in written]
    texts = write_texts(scorer.model, store, prompts, scorer.max_tokens)
    answers = {key: _Answer(text=text) for key, text in zip(written, texts, strict=True)}
    answers |= _choose(scorer, trees, chosen, tasks)
    for number, place in titles:
        answers[number, place] = _Answer(place=_place(scorer, trees[number], place, store))
    return answers


def _prompt(branch: Branch) -> Ids:
    """The branch up to where its answer begins."""
    return branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]


def _whole_prompt(tree: Tree, place: int) -> Ids:
    return np.concatenate([tree.trunk, _prompt(tree.branches[place])])


def _choose(
    scorer: Scorer, trees: Sequence[Tree], keys: Sequence[Key], tasks: Sequence[Task]
) -> dict[Key, _Answer]:
    """Probabilities of what each branch offers."""
    requests = []
    for number, group in groupby(keys, key=itemgetter(0)):
        branches = [trees[number].branches[place] for _, place in group]
        asked = [
            ScoredBranch(_prompt(b), b.choices, f"{tasks[b.task].name} about {b.subject}")
            for b in branches
        ]
        requests.append(Request(trees[number].trunk, asked, f"tree {number}"))
    scores = [score for scores in scorer.score(requests) for score in scores]
    return {
        key: _Answer(tuple(score.probabilities_C.tolist()), score.label_mass)
        for key, score in zip(keys, scores, strict=True)
    }


def _place(scorer: Scorer, tree: Tree, place: int, store: TokenStore) -> Place:
    """Where the right item stands among the catalog without the history, by likelihood."""
    branch = tree.branches[place]
    right = branch.question.label
    catalog = np.setdiff1d(
        store.statistics.known_items,
        seen_items(store, Asked(tree.moment, branch.subject, branch.question)),
    )
    if right not in catalog:
        # Never learned of, or already met: it cannot be recommended.
        return Place(len(catalog), 0, len(catalog))
    prompt = _whole_prompt(tree, place)
    better, tied = place_of_title(
        lambda texts: score_continuations(
            scorer.model, prompt, texts, max_tokens=scorer.max_tokens, cache=scorer.cache
        ),
        [tuple(store.title_tokens(int(item)).tolist()) for item in catalog],
        int(np.searchsorted(catalog, right)),
    )
    return Place(better, tied, len(catalog))


def _merged(parts: Sequence[dict[Key, _Answer]], trees: Sequence[Tree]) -> dict[Key, _Answer]:
    """The ranks' answers together: every target exactly once."""
    merged: dict[Key, _Answer] = {}
    for part in parts:
        twice = merged.keys() & part.keys()
        if twice:
            raise RuntimeError(f"{len(twice)} targets were scored twice, first {min(twice)}")
        merged.update(part)
    expected = sum(len(tree.branches) for tree in trees)
    if len(merged) != expected:
        raise RuntimeError(
            f"{len(merged)} of {expected} targets were scored: the result would be incomplete"
        )
    return merged


def _by_task(
    answers: dict[Key, _Answer], trees: Sequence[Tree], tasks: Sequence[Task], store: TokenStore
) -> dict[str, TargetScores]:
    asked: list[list[Asked]] = [[] for _ in tasks]
    given: list[list[_Answer]] = [[] for _ in tasks]
    for number, tree in enumerate(trees):
        for place, branch in enumerate(tree.branches):
            asked[branch.task].append(Asked(tree.moment, branch.subject, branch.question))
            given[branch.task].append(answers[number, place])
    return {
        task.name: _scores(store, task, asked[index], given[index])
        for index, task in enumerate(tasks)
    }


def _scores(
    store: TokenStore, task: Task, asked: Sequence[Asked], given: Sequence[_Answer]
) -> TargetScores:
    if task.kind == "text":
        return answered_by_text(store, task, asked, [one.text for one in given])
    if task.kind == "title":
        places = [one.place for one in given if one.place is not None]
        return answered(task, asked, places=places)
    return answered(
        task,
        asked,
        probabilities=[one.probabilities for one in given],
        label_mass=[one.label_mass for one in given],
    )
