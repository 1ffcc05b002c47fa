"""What each source of a prompt brings: the context ladder, one source more at every rung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from data_pipeline.render import Asked
from data_pipeline.store import TokenStore
from data_pipeline.tasks.base import Task
from data_pipeline.tasks.needs import missing
from data_pipeline.tree import NOBODY, Branch, Ids, Tree
from data_pipeline.verbalize import HISTORY_CUE, UNTIMED
from train.evaluation.curves.base import EVERYTHING, Curve, Ground

TITLE, RECORD, PROFILE, TITLES, WHOLE = range(5)
_NAMES: Mapping[float, str] = {
    TITLE: "titles in the question",
    RECORD: "+ records",
    PROFILE: "+ profile",
    TITLES: "+ history, titles",
    WHOLE: "+ ages, records, actions",
}


class Ladder(Curve):
    """The same targets behind one verbalised source more at every rung, up to the whole prompt.

    The first rung asks about items by their titles alone; then come the rest of their records, the
    user's profile, the titles of the history, and at last the history as it is trained on: ages,
    records and actions. The events are those that the whole prompt shows. A rung says what this
    model makes of so much of a prompt; one that was trained on no more may make more of it.

    Source: GenPage (Netflix, 2026), section 7.3: richer contexts brought more than a larger model.
    """

    name = "ladder"
    x_label = "what the prompt holds"
    scale: ClassVar[Literal["linear", "log", "names"]] = "names"
    same_targets = True

    def wants(self, task: Task) -> bool:
        """Tasks behind a whole history that are answered by a word or a letter."""
        return task.history == "full" and not task.is_written

    def xs(self, ground: Ground) -> Sequence[float]:
        """Numbers of the rungs that the corpus has."""
        skipped = self.skipped(ground)
        return tuple(x for x in _NAMES if x not in skipped)

    def skipped(self, ground: Ground) -> Mapping[float, str]:
        """Rungs that would add nothing."""
        store, style = ground.store, ground.mixture.styles[0]
        found: dict[float, str] = {}
        if style == "plain" and not _records_say_more(store):
            found[RECORD] = "its items have titles and no other fields"
        no_profiles = missing({"user.*"}, store)
        if no_profiles is not None:
            found[PROFILE] = no_profiles
        return found

    def names(self, ground: Ground) -> Mapping[float, str]:
        """What each rung adds."""
        return _NAMES

    def keeps(self, ground: Ground, x: float, tree: Tree, branch: Branch) -> bool:
        """Whether the question names an item."""
        style = ground.mixture.styles[0]
        kinds = (f"line/{style}", f"inline/{style}", "title", "bare")
        items = [_rows(ground.store, kind) for kind in kinds]
        return any(piece in rows for piece in branch.question.pieces for rows in items)

    def reshaped(self, ground: Ground, x: float, tree: Tree) -> Tree:
        """The prompt with the sources of the rung and of all below it."""
        if x == WHOLE:
            return tree
        if x == TITLE:
            tree = replace(tree, branches=_asked_by_title(ground, tree.branches))
        if x in (TITLE, RECORD):
            trunk, _ = ground.store.trunk(NOBODY, ground.mixture.styles[0], EVERYTHING)
            return replace(tree, trunk=trunk)
        profile = ground.with_history(tree, 0).trunk
        history = _titles_of_history(ground, tree) if x == TITLES else []
        return replace(tree, trunk=np.concatenate([profile, *history]))

    def reached(self, ground: Ground, x: float, tree: Tree) -> bool:
        """Whether there is something of what the rung adds: a known profile, a history."""
        if x == PROFILE:
            store = ground.store
            unknown = store.piece(store.constant(" unknown\n"))
            profile = store.piece(store.piece_of("profile", tree.moment.user))
            return not np.array_equal(profile, unknown)
        return x < TITLES or tree.moment.start < tree.moment.cut


def _rows(store: TokenStore, kind: str) -> range:
    """Pieces of a kind that has one for every item."""
    first = store.card.first_piece[kind]
    return range(first, first + store.n_items)


def _records_say_more(store: TokenStore) -> bool:
    """Whether some record goes on behind the title."""
    rows = _rows(store, "inline/plain")
    lengths_N = np.diff(store.piece_offsets_P1[rows.start : rows.stop + 1])
    return bool((lengths_N > store.title_lengths_N).any())


def _asked_by_title(ground: Ground, branches: Sequence[Branch]) -> tuple[Branch, ...]:
    """The branches written with titles where records stand; what is asked stays the same."""
    bare = [
        Asked(
            branch.task,
            branch.subject,
            replace(branch.question, pieces=_with_titles(ground, branch.question.pieces)),
            branch.phrasing,
        )
        for branch in branches
    ]
    written = ground.writer.write(bare)
    return tuple(
        replace(new, question=old.question) for new, old in zip(written, branches, strict=True)
    )


def _with_titles(ground: Ground, pieces: Sequence[int]) -> tuple[int, ...]:
    """Pieces of a question with a title in place of each record."""
    store, style = ground.store, ground.mixture.styles[0]
    lines, inlines = _rows(store, f"line/{style}"), _rows(store, f"inline/{style}")
    titles = _rows(store, "title")
    found = []
    for piece in pieces:
        if piece in lines:
            piece = titles[piece - lines.start]
        elif piece in inlines:
            # Inside a line: without the newline that ends a title's own.
            line = store.encoder.decode(store.piece(titles[piece - inlines.start]))
            piece = store.constant(line.removesuffix("\n"))
        found.append(piece)
    return tuple(found)


def _titles_of_history(ground: Ground, tree: Tree) -> list[Ids]:
    """The events that the whole prompt shows, each as a title behind the mark of an unknown age."""
    store, mixture = ground.store, ground.mixture
    _, shown = store.trunk(tree.moment, mixture.styles[0], mixture.max_trunk_tokens)
    if not len(shown.items):
        return []
    titles, mark = _rows(store, "title"), store.constant(UNTIMED)
    pieces = [store.constant(HISTORY_CUE)]
    for item in shown.items.tolist():
        pieces += (mark, titles[item])
    return [store.gather(pieces)[0]]
