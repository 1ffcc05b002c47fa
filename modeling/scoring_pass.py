"""One pass of the model over branches of several trunks, and their probabilities.

Legend: T tokens of the row, P tokens of a trunk, M answers asked for, C choices of all of them, V
vocabulary.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modeling.label_scores import choice_probabilities, label_logits
from modeling.tree_layout import TreeLayout
from modeling.trunk_states import TrunkStates

Tokens = NDArray[np.int64]


class Score(NamedTuple):
    """How a model answers one branch."""

    probabilities_C: NDArray[np.float64]
    """Of the branch's choices, among themselves; they sum to 1."""
    label_mass: float
    """How much of the whole vocabulary's probability the choices hold together."""


@dataclass(eq=False, slots=True)
class OpenTrunk:
    """A trunk whose branches are being asked."""

    tokens_P: Tokens
    states: TrunkStates
    """Of its first tokens or of all; the pass that reads the others records them."""

    @property
    def held(self) -> int:
        """Tokens that need not be read."""
        return min(self.states.length, len(self.tokens_P))


class _Answer(NamedTuple):
    branch: int
    """Place among the distinct branches of the row."""
    choices: Tokens


@dataclass(slots=True)
class Row:
    """What one pass reads: trunks as far as they are not held, each with branches behind it.

    A branch that is asked twice behind one trunk is read once, so that its scores are equal to the
    last bit.
    """

    max_tokens: int
    max_branches: int
    """Each has logits over the whole vocabulary for a moment."""
    trunks: list[OpenTrunk] = field(default_factory=list)
    branches: list[list[Tokens]] = field(default_factory=list)
    """Distinct ones of each trunk."""
    answers: list[_Answer] = field(default_factory=list)
    used: int = 0
    _places: dict[bytes, int] = field(default_factory=dict)
    """Of the newest trunk's branches, by content."""

    def fits(self, trunk: OpenTrunk, branch: Tokens) -> bool:
        """Whether the row has room for a branch, and for its trunk where it is not in the row."""
        more = len(branch) + (0 if self._is_newest(trunk) else len(trunk.tokens_P) - trunk.held)
        return self.used + more <= self.max_tokens and len(self.answers) < self.max_branches

    def add(self, trunk: OpenTrunk, branch: Tokens, choices: Tokens) -> None:
        """Ask a branch; those of one trunk come one after the other."""
        if not self._is_newest(trunk):
            self.trunks.append(trunk)
            self.branches.append([])
            self._places.clear()
            self.used += len(trunk.tokens_P) - trunk.held
        content = branch.tobytes()
        if content not in self._places:
            self._places[content] = sum(map(len, self.branches))
            self.branches[-1].append(branch)
            self.used += len(branch)
        self.answers.append(_Answer(self._places[content], choices))

    def _is_newest(self, trunk: OpenTrunk) -> bool:
        return bool(self.trunks) and self.trunks[-1] is trunk

    @torch.no_grad()
    def scores(self, model: torch.nn.Module, device: torch.device) -> list[Score]:
        """Run the pass: a score for every answer, in the order in which they were added.

        Raises:
            NotFiniteError: a logit is not finite; its `position` counts answers.
        """
        layout = TreeLayout(
            tuple(len(trunk.tokens_P) for trunk in self.trunks),
            tuple(tuple(map(len, own)) for own in self.branches),
            cached_lengths=tuple(trunk.held for trunk in self.trunks),
        )
        runs = []
        for trunk, own in zip(self.trunks, self.branches, strict=True):
            runs += [trunk.tokens_P[trunk.held :], *own]
        ends = np.array([p.start + p.length for p in layout.pieces() if p.branch], np.int64)
        places_M = ends[[answer.branch for answer in self.answers]] - 1
        logits_MV = label_logits(
            model,
            torch.from_numpy(np.concatenate(runs)).to(device),
            layout.positions().to(device),
            layout,
            torch.from_numpy(places_M).to(device),
            [trunk.states for trunk in self.trunks],
        )
        return scores_of(logits_MV, [answer.choices for answer in self.answers])


def scores_of(logits_MV: torch.Tensor, choices: list[Tokens]) -> list[Score]:
    """The M scores that logits at the ends of M branches give.

    Raises:
        NotFiniteError: a logit is not finite.
    """
    offsets_M1 = np.cumsum([0, *map(len, choices)])
    probabilities_C, mass_M = choice_probabilities(
        logits_MV, torch.from_numpy(np.concatenate(choices)), torch.from_numpy(offsets_M1)
    )
    parts = np.split(probabilities_C.cpu().numpy(), offsets_M1[1:-1])
    return [Score(part, mass) for part, mass in zip(parts, mass_M.tolist(), strict=True)]
