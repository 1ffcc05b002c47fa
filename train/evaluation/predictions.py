"""A language model's answers to an evaluation set, computed by all ranks together.

Label and choice tasks: probabilities of the answer tokens at the answer cue, from fp32 logits.
Title tasks: the place of the right item among all known items that are not in the history, ranked
by log p(title | prompt). Text tasks: what the model writes, greedily. Nothing is sampled.

Shapes: T tokens, M label positions, V vocabulary, N items of the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch

from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tree import Branch, Ids, Tree
from modeling.scoring import choice_probabilities, label_logits, score_continuations
from modeling.tree_attention import TreeLayout
from train.distributed import DistributedContext
from train.evaluation.baselines.base import seen_items
from train.evaluation.config import MAX_NEW_TOKENS
from train.evaluation.questions import Asked, Place, answered
from train.evaluation.scores import TargetScores
from train.evaluation.texts import answered_by_text, write_texts
from train.evaluation.titles import place_of_title
from train.progress import show_progress

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
        ValueError: a probability is not finite.
        RuntimeError: a target was scored twice or not at all.
    """
    was_training = model.training
    model.eval()
    mine = list(_batches(trees, max_tokens))[context.rank :: context.world_size]
    # Counted in tokens: a title is ranked among all titles, so its tree is worth many others.
    catalog_tokens = int(store.title_lengths_N[store.statistics.known_items].sum())
    work = [_n_tokens(tree) + catalog_tokens * _has_title(tree) for tree in trees]
    total = sum(work[number] for numbers in mine for number in numbers)
    progress = show_progress(total, f"{description}, tokens", silent=not context.is_main)
    answers: dict[Key, _Answer] = {}
    for numbers in mine:
        answers.update(_answer_batch(model, trees, numbers, tasks, store, context, max_tokens))
        progress.advance(sum(work[number] for number in numbers))
    progress.close()
    model.train(was_training)
    merged = _merged(context.all_gather_object(answers), trees)
    return _by_task(merged, trees, tasks, store)


def _batches(trees: Sequence[Tree], max_tokens: int) -> Iterator[list[int]]:
    """Consecutive trees up to `max_tokens` tokens together; at least one, one alone with a title.

    A title is ranked among the whole catalog, which is as much work as a micro-batch.
    """
    numbers: list[int] = []
    used = 0
    for number, tree in enumerate(trees):
        size = max_tokens if _has_title(tree) else _n_tokens(tree)
        if numbers and used + size > max_tokens:
            yield numbers
            numbers, used = [], 0
        numbers.append(number)
        used += size
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
    model: torch.nn.Module,
    trees: Sequence[Tree],
    numbers: list[int],
    tasks: Sequence[Task],
    store: TokenStore,
    context: DistributedContext,
    max_tokens: int,
) -> dict[Key, _Answer]:
    """Write what is to be written, score the rest."""
    written: list[Key] = []
    scored: list[Key] = []
    for number in numbers:
        for place, branch in enumerate(trees[number].branches):
            (written if branch.question.text else scored).append((number, place))
    prompts = [
        np.concatenate([trees[number].trunk, _prompt(trees[number].branches[place])])
        for number, place in written
    ]
    texts = write_texts(model, store, prompts, max_tokens)
    answers = {key: _Answer(text=text) for key, text in zip(written, texts, strict=True)}
    if scored:
        answers |= _score_batch(model, trees, scored, tasks, store, context, max_tokens)
    return answers


def _prompt(branch: Branch) -> Ids:
    """The branch up to where its answer begins."""
    return branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]


def _score_batch(
    model: torch.nn.Module,
    all_trees: Sequence[Tree],
    keys: list[Key],
    tasks: Sequence[Task],
    store: TokenStore,
    context: DistributedContext,
    max_tokens: int,
) -> dict[Key, _Answer]:
    # Labels come in the order of the branches; the supervised history behind them is not asked.
    trees = [
        replace(all_trees[n], branches=tuple(all_trees[n].branches[b] for _, b in group))
        for n, group in groupby(keys, key=itemgetter(0))
    ]
    batch = pack(trees, len(tasks))
    layout = TreeLayout.from_arrays(batch.trunk_lengths, batch.branch_counts, batch.branch_lengths)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=context.device)

    branches = [branch for tree in trees for branch in tree.branches]
    ends = np.cumsum([len(branch.answer) for branch in branches])
    places_M = batch.label_positions_M[: ends[-1] if len(ends) else 0]
    logits_MV = label_logits(
        model, tensor(batch.tokens_T), tensor(batch.positions_T), layout, tensor(places_M)
    )
    firsts = ends - [len(branch.answer) for branch in branches]
    probabilities, mass = choice_probabilities(
        logits_MV[tensor(firsts)], tensor(batch.choice_tokens), tensor(batch.choice_offsets)
    )
    p_C, mass_B = probabilities.cpu().numpy(), mass.cpu().numpy()
    if not (np.isfinite(p_C).all() and np.isfinite(mass_B).all()):
        numbers = sorted({number for number, _ in keys})
        raise ValueError(
            f"the model gave a probability that is not finite, in trees {numbers}: the run "
            "diverged or its weights are damaged; evaluate an earlier checkpoint"
        )
    answers = {}
    owners = [tree for tree in trees for _ in tree.branches]
    for row, (key, branch, tree) in enumerate(zip(keys, branches, owners, strict=True)):
        if len(branch.choices):
            own = slice(batch.choice_offsets[row], batch.choice_offsets[row + 1])
            answers[key] = _Answer(tuple(p_C[own].tolist()), float(mass_B[row]))
        else:
            label_logits_mV = logits_MV[firsts[row] : ends[row]]
            place = _place(model, tree, branch, label_logits_mV, store, max_tokens)
            answers[key] = _Answer(place=place)
    return answers


def _place(
    model: torch.nn.Module,
    tree: Tree,
    branch: Branch,
    logits_mV: torch.Tensor,
    store: TokenStore,
    max_tokens: int,
) -> Place:
    """Where the right item stands among the catalog without the history, by likelihood."""
    right = branch.question.label
    log_p_mV = logits_mV.double().log_softmax(-1)
    answer = torch.as_tensor(branch.answer.astype(np.int64), device=log_p_mV.device)
    right_score = float(log_p_mV.gather(1, answer[:, None]).sum())
    catalog = np.setdiff1d(
        store.statistics.known_items,
        seen_items(store, Asked(tree.moment, branch.subject, branch.question)),
    )
    if right not in catalog:
        # Never learned of, or already met: it cannot be recommended.
        return Place(len(catalog), 0, len(catalog))
    titles = [tuple(store.title_tokens(int(item)).tolist()) for item in catalog]
    first_N = torch.tensor([title[0] for title in titles], device=log_p_mV.device)
    behind = np.concatenate([tree.trunk, _prompt(branch)])
    room = max(max_tokens, len(behind) + max(map(len, titles)))
    better, tied = place_of_title(
        lambda texts: score_continuations(model, behind, texts, max_tokens=room),
        titles,
        int(np.searchsorted(catalog, right)),
        log_p_mV[0][first_N].cpu().numpy(),
        right_score,
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
