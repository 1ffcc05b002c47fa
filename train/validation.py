"""Loss and accuracy on validation targets, per task, while a run trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from data_pipeline.packing import MicroBatch, branches_of
from data_pipeline.tree import Tree
from modeling.label_scores import choice_probabilities
from train.distributed import DistributedContext
from train.objectives import Objective, Tally
from train.objectives.label import logits_at_branches

_EXAMPLE_TREES = 2
_EXAMPLE_BRANCHES = 12


class Validation:
    """Scores fixed trees, each rank its share. Every method is called by all ranks alike.

    Args:
        trees: the targets to score; the same sequence on every rank.
        pack: makes a micro-batch of trees.
        objective: what training minimises.
        context: this process's place.
        trees_per_micro_batch: as in training, so that memory suffices.
    """

    def __init__(
        self,
        trees: Sequence[Tree],
        pack: Callable[[Sequence[Tree]], MicroBatch],
        objective: Objective,
        context: DistributedContext,
        *,
        trees_per_micro_batch: int,
    ) -> None:
        self._trees = trees
        self._pack = pack
        self._objective = objective
        self._context = context
        self._size = trees_per_micro_batch

    @torch.no_grad()
    def run(self, model: nn.Module) -> Tally:
        """Score every tree once; the tally is of all ranks."""
        rank, world_size, size = self._context.rank, self._context.world_size, self._size
        mine = range(rank, len(self._trees), world_size)
        rounds = -(-len(self._trees) // (world_size * size))
        device = next(model.parameters()).device
        sums = Tally.zero(self._objective.n_columns).sums
        total = torch.as_tensor(sums, device=device)
        was_training = model.training
        model.eval()
        for number in range(rounds):
            indices = mine[number * size : (number + 1) * size]
            # ZeRO-3 gathers weights in every forward: a rank without trees left goes along.
            batch = self._pack([self._trees[index] for index in indices or (0,)])
            output = self._objective(model, batch)
            if indices:
                total = total + output.sums
        model.train(was_training)
        return Tally(self._context.all_reduce_sum(total.cpu().numpy()))

    @torch.no_grad()
    def examples(
        self, model: nn.Module, names: tuple[str, ...], decode: Callable[[Any], str]
    ) -> list[dict[str, Any]]:
        """A few prompts with their answers and what the model thinks of each choice.

        Every rank runs the same trees and gets the same rows.
        """
        if not len(self._trees):
            return []
        trees = [self._trees[index] for index in range(min(_EXAMPLE_TREES, len(self._trees)))]
        batch = self._pack(trees)
        was_training = model.training
        model.eval()
        logits_BV = logits_at_branches(model, batch, next(model.parameters()).device)
        model.train(was_training)
        probabilities, _ = choice_probabilities(
            logits_BV, torch.from_numpy(batch.choice_tokens), torch.from_numpy(batch.choice_offsets)
        )
        shares = np.split(probabilities.cpu().numpy(), batch.choice_offsets[1:-1])
        trunks = [tree.before(branch) for tree in trees for branch in tree.branches]
        rows = []
        for branch, trunk, share in zip(branches_of(trees), trunks, shares, strict=True):
            choices = [decode([token]) for token in branch.choices]
            rows.append(
                {
                    "task": names[branch.task],
                    "prompt": decode([*trunk, *branch.tokens]),
                    "answer": decode(branch.answer),
                    "probabilities": ", ".join(
                        f"{choice.strip()} {p:.3f}"
                        for choice, p in zip(choices, share, strict=True)
                    ),
                }
            )
        return rows[:_EXAMPLE_BRANCHES]
