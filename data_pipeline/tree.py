"""The unit that a mixture yields: one trunk and the branches that ask about it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Ages = Literal["moment", "gaps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One user at one moment; rows are rows of the token store's events.

    `[start, cut)` is the history that the trunk shows, `[cut, stop)` the window of later events
    that may be asked about. All events of the window are younger than all of the history, and no
    request is cut in two.
    """

    user: int
    """Row of the user, or -1 where the question is about items only."""
    start: int
    cut: int
    stop: int
    time: int
    """Milliseconds since 1970; ages in the trunk are measured from here."""
    ages: Ages = "moment"
    """What an event of the history is dated by: the time from it to the moment, or the gap between
    it and the event before it, which is the same text wherever the history ends."""
    anonymous: bool = False
    """The trunk leaves the profile out."""
    demonstrations: tuple[tuple[int, ...], ...] = ()
    """Labelled rows of other users that a trunk without a user shows: the pieces of each, nearest
    to the question first."""


NOBODY = Moment(user=-1, start=0, cut=0, stop=0, time=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a task asks about a subject, and the right answer."""

    label: int
    """Index of the right label word or candidate; for title tasks the row of the right item; for
    text tasks 0."""
    pieces: tuple[int, ...] = ()
    """Pieces of the question, between instruction and answer cue."""
    candidates: tuple[int, ...] = ()
    """Item rows asked about. In a choice among items, candidate i is answered by letter i."""
    n_choices: int = 0
    """Answers that can be given; 0 where the answer is written: for title and text tasks."""
    text: tuple[int, ...] = ()
    """Pieces of the right answer of a text task; the last one ends its line."""
    answers: tuple[int, ...] = ()
    """Token of each choice where options are answered by their names; empty: the task's labels."""
    gains: tuple[float, ...] | None = None
    """Graded relevance of each choice, where the task has one."""
    prior: tuple[float, ...] | None = None
    """How common each choice was in training: what a baseline without the model would say."""
    value: float | None = None
    """The raw value behind the label, such as the rating."""
    query: int | None = None
    """Row of the query that this is about. Questions of one query, like those of one user, are not
    independent: a bootstrap draws them together."""
    request: int | None = None
    """First row of the request in which the item was shown, with others that are asked about one
    by one: their order, too, is an answer."""
    user: int | None = None
    """Row of the user whose event this is about, where the moment is nobody's. A bootstrap draws
    the questions of one user together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """What one target adds behind its trunk."""

    task: int
    """Index in the list of tasks."""
    subject: int
    """Event row, or item row for questions about items."""
    phrasing: int
    """Which instruction was used; held-out ones follow the trained ones."""
    tokens: Ids
    """Instruction, question, cue, and the answer but for its last token; shape [n]."""
    answer: Ids
    """Ids expected behind each of the last m tokens; shape [m]."""
    choices: Ids
    """The id of each possible answer; empty for title and text tasks; shape [K]."""
    question: Question
    weight: float = 1.0
    attach: int | None = None
    """Trunk tokens that stand before the branch: what lies behind them it does not see. None: all
    of the trunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkLabels:
    """Supervised places of a trunk (layout L1): the token behind `positions[i]` is `tokens[i]`."""

    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    tokens: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    weights: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    targets: int = 0
    """Answers that these places make up."""


NO_LABELS = TrunkLabels()


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryWindow:
    """How far back along a trunk its events and branches see (layout L1w)."""

    size: int
    """Events before one's own."""
    starts: NDArray[np.int64]
    """Trunk position at which each event begins; what is before is the profile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """A trunk with its branches."""

    corpus: int
    """Index of the token store in its mixture."""
    moment: Moment
    trunk: Ids
    branches: tuple[Branch, ...]
    trunk_labels: TrunkLabels = NO_LABELS
    dropped_events: int = 0
    """Oldest events of the history that the trunk had no room for."""
    window: HistoryWindow | None = None
    """None: all of the trunk is seen."""

    def before(self, branch: Branch) -> Ids:
        """The part of the trunk that a branch sees: with the branch behind it, its own prompt."""
        return self.trunk[: branch.attach]
