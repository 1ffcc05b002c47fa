"""What a task may look at: one moment of one corpus, and nothing later than its window."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from string import ascii_uppercase
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.draws import Draws
from data_pipeline.errors import DataError
from data_pipeline.splits import Phase
from data_pipeline.statistics import Statistics
from data_pipeline.store import TokenStore
from data_pipeline.store_tables import QUERY_KIND, REVIEW_KIND, TAG_KIND, EventCategory
from data_pipeline.tasks.cues import ANSWER_CUE, OPTION
from data_pipeline.tasks.judged import Judged, Tagged
from data_pipeline.tasks.needs import SKIPPED
from data_pipeline.tree import Moment
from data_pipeline.verbalize import action_text

_NEGATIVE_EXPONENT: Final = 0.75
_RARE_SHARE: Final = 0.1
_TYPED: Final = 2
_MOST_REVIEWED: Final = 100_000
_NUMBER_BEHIND: Final = re.compile(r" \([^ ]+\)$")
"""The value that stands behind a percentile word."""


class Shelf:
    """What all views of one store share: sampling tables, fitted on training events."""

    def __init__(
        self, store: TokenStore, choice_answers: Literal["letter", "name"] = "letter"
    ) -> None:
        self.store = store
        self._by_name = choice_answers == "name"
        self.statistics: Statistics = store.statistics
        self.known_items = self.statistics.known_items
        weights = self.statistics.item_count_N[self.known_items].astype(np.float64)
        self._cumulative = np.cumsum(weights**_NEGATIVE_EXPONENT)
        self._number_fields: dict[str, NDArray[np.float64]] = {}
        self._category_shares: dict[str, list[float]] = {}
        self._category_steps: dict[str, list[float]] = {}
        self._decade_shares: dict[str, dict[int, float]] = {}
        self._name_tokens: dict[str, dict[str, int]] = {}
        self._reviewed: dict[tuple[Phase, int | None], NDArray[np.int64]] = {}
        self._codes: dict[tuple[str, int], tuple[int, ...]] = {}
        self._event_numbers: dict[str, NDArray[np.float32]] = {}
        self._event_categories: dict[str, EventCategory] = {}
        self._profiles: dict[str, list[str | None]] = {}

    @cached_property
    def rare_item_events(self) -> int:
        """Training events of an item up to which it is rare: such items share a tenth of them."""
        counts = np.sort(self.statistics.item_count_N[self.known_items])
        rare = np.searchsorted(np.cumsum(counts), _RARE_SHARE * counts.sum())
        return int(counts[min(rare, len(counts) - 1)])

    @cached_property
    def action_names(self) -> list[str]:
        """The action of each (action, value) pair that events are coded by."""
        first, card = self.store.card.first_piece["action"], self.store.card
        n_codes = int(self.store.event_action_E.max(initial=-1)) + 1
        found = []
        for code in range(n_codes):
            text = self.store.encoder.decode(self.store.piece(first + code)).strip(" |\n")
            fitting = [a for a in card.actions if f"{text} ".startswith(f"{action_text(a, None)} ")]
            found.append(max(fitting, key=len))
        return found

    def event_number(self, field: str) -> NDArray[np.float32]:
        """Return a numeric field of events, NaN where unknown; shape [E]."""
        if field not in self._event_numbers:
            self._event_numbers[field] = self.store.event_number(field)
        return self._event_numbers[field]

    def event_category(self, field: str) -> EventCategory:
        """Return a categorical field of events."""
        if field not in self._event_categories:
            self._event_categories[field] = self.store.event_category(field)
        return self._event_categories[field]

    def common_profile_values(self, field: str, n: int) -> tuple[str, ...]:
        """Return the n most common values of a profile field among users of the training, sorted.

        A number stands as its percentile word alone.
        """
        trained = np.flatnonzero(self.store.train_stops_U > self.store.user_offsets_U1[:-1])
        values = self.profile_values(field)
        counts = Counter(values[user] for user in trained.tolist())
        del counts[None]
        return tuple(sorted(value for value, _ in counts.most_common(n) if value is not None))

    def profile_values(self, field: str) -> list[str | None]:
        """Return the words of a profile field for every user, None where unknown."""
        if field not in self._profiles:
            first = self.store.card.first_piece["profile"]
            decode, found = self.store.encoder.decode, list[str | None]()
            for user in range(self.store.n_users):
                parts = decode(self.store.piece(first + user)).strip().split(" | ")
                name = f"{field} "
                own = [part.removeprefix(name) for part in parts if part.startswith(name)]
                found.append(_NUMBER_BEHIND.sub("", own[0]) if own else None)
            self._profiles[field] = found
        return self._profiles[field]

    @cached_property
    def shown_alone(self) -> bool:
        """Whether most skipped items were shown alone, so that a click alone is no odd thing."""
        codes = [c for c, name in enumerate(self.action_names) if name == SKIPPED]
        opens_E1 = np.append(self.store.event_opens_request_E, True)
        alone_E = opens_E1[:-1] & opens_E1[1:]
        skipped = alone_E[np.isin(self.store.event_action_E, codes)]
        return bool(len(skipped) and skipped.mean() > 0.5)

    @cached_property
    def judged(self) -> Judged:
        """The judgements, arranged to draw from; only for stores that have some."""
        assert self.store.judgements is not None, "a task about judgements needs them"
        return Judged(self.store.judgements)

    def start_of(self, query: int) -> str:
        """Return the letters that a query begins with, as someone who is typing it has them."""
        assert self.store.queries is not None, "a task about queries needs them"
        return self.store.queries.texts[query][:_TYPED].casefold()

    @cached_property
    def queries_by_start(self) -> dict[str, list[int]]:
        """Queries by the letters that they begin with."""
        assert self.store.queries is not None, "a task about queries needs them"
        found: dict[str, list[int]] = {}
        for query in range(self.store.queries.n_queries):
            found.setdefault(self.start_of(query), []).append(query)
        return found

    @cached_property
    def tagged(self) -> Tagged:
        """What people called items, arranged to draw from; only for stores that have tags."""
        assert self.store.tags is not None, "a task about tags needs them"
        return Tagged(self.store.tags, self.store.queries)

    def reviewed(self, phase: Phase, action: int | None = None) -> NDArray[np.int64]:
        """Return events of a phase about which something is written, perhaps of one coded action.

        Few enough to draw from are kept: every so many of them, evenly spread.
        """
        if (phase, action) not in self._reviewed:
            first = self.store.piece_of(REVIEW_KIND, 0)
            offsets_E1 = self.store.piece_offsets_P1[first : first + self.store.n_events + 1]
            chosen_E = (self.store.event_phase_E == phase) & (np.diff(offsets_E1) > 0)
            if action is not None:
                chosen_E &= self.store.event_action_E == action
            rows = np.flatnonzero(chosen_E)
            self._reviewed[phase, action] = rows[:: 1 + len(rows) // _MOST_REVIEWED]
        return self._reviewed[phase, action]

    @cached_property
    def letters(self) -> list[int]:
        """Pieces of "A:" to "Z:"."""
        return [self.store.constant(f"{letter}:") for letter in ascii_uppercase]

    def popular(self, floats: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return known items drawn with probability count^0.75, as word2vec draws negatives."""
        picks = np.searchsorted(self._cumulative, floats * self._cumulative[-1], side="right")
        found: NDArray[np.int64] = self.known_items[np.minimum(picks, len(self.known_items) - 1)]
        return found

    def number(self, field: str) -> NDArray[np.float64]:
        """Return a numeric item field; shape [N]."""
        if field not in self._number_fields:
            self._number_fields[field] = self.store.number(field)
        return self._number_fields[field]

    def codes(self, field: str, item: int) -> tuple[int, ...]:
        """Return the codes of an item's categories."""
        found = self._codes.get((field, item))
        if found is None:
            found = self._codes[field, item] = self.store.categories(field).of(item)
        return found

    def category_shares(self, field: str) -> list[float]:
        """Return each category's share of training events."""
        if field not in self._category_shares:
            category = self.store.categories(field)
            per_code = np.repeat(self.statistics.item_count_N, np.diff(category.offsets_N1))
            counts = np.bincount(category.codes, per_code, minlength=len(category.names))
            self._category_shares[field] = (counts / max(1.0, counts.sum())).tolist()
        return self._category_shares[field]

    def name_tokens(self, field: str, names: Sequence[str]) -> dict[str, int]:
        """Return the token that answers each of a field's names.

        Empty where options are answered by letter: as configured, or because a name takes several
        tokens behind the cue or cannot be told from a letter.
        """
        if field not in self._name_tokens:
            tokens: dict[str, int] = {}
            if self._by_name:
                words = [*names, *(letter for letter in "AB" if letter not in names)]
                with suppress(DataError):
                    found = self.store.encoder.labels(ANSWER_CUE, words)[1].tolist()
                    tokens = dict(zip(names, found, strict=False))
            self._name_tokens[field] = tokens
        return self._name_tokens[field]

    def category_steps(self, field: str) -> list[float]:
        """Return the rising sums of the shares, to draw categories by how common they are."""
        if field not in self._category_steps:
            self._category_steps[field] = list(accumulate(self.category_shares(field)))
        return self._category_steps[field]

    def decade_shares(self, field: str) -> dict[int, float]:
        """Return each decade's share of training events; 199 stands for the 1990s."""
        if field not in self._decade_shares:
            years = self.number(field)[self.known_items]
            dated = np.isfinite(years)
            decades, inverse = np.unique((years[dated] // 10).astype(np.int64), return_inverse=True)
            counts = np.bincount(inverse, self.statistics.item_count_N[self.known_items[dated]])
            shares = counts / max(1.0, counts.sum())
            self._decade_shares[field] = dict(zip(decades.tolist(), shares.tolist(), strict=True))
        return self._decade_shares[field]


class View:
    """One moment, seen by one task at a time. Rows are event rows; items are item rows."""

    def __init__(self, shelf: Shelf, moment: Moment, phase: Phase, draws: Draws, style: str):
        self.shelf = shelf
        self.store = shelf.store
        self.statistics = shelf.statistics
        self.moment = moment
        self.phase = phase
        """Of the window's events: TRAIN while training, VALIDATION or TEST in evaluation."""
        self.draws = draws
        self._line = self.store.card.first_piece[f"line/{style}"]
        self._inline = self.store.card.first_piece[f"inline/{style}"]
        self._title = self.store.card.first_piece["title"]
        self._bare = self.store.card.first_piece["bare"]

    @property
    def training(self) -> bool:
        """Whether the answers will be trained on."""
        return self.phase == Phase.TRAIN

    # Events

    def item(self, event: int) -> int:
        """Return the item of an event."""
        return int(self.store.event_item_E[event])

    def items(self, events: range) -> NDArray[np.int32]:
        """Return the items of successive events."""
        return self.store.event_item_E[events.start : events.stop]

    def value(self, event: int) -> float:
        """Return the value of an event, such as its rating; NaN where it has none."""
        return float(self.store.event_value_E[event])

    def action(self, event: int) -> str:
        """Return what the user did, as in `rated`."""
        return self.shelf.action_names[int(self.store.event_action_E[event])]

    def skipped(self, event: int) -> bool:
        """Whether the item was shown and left alone: such an event is no choice of the user's."""
        return self.action(event) == SKIPPED

    def request(self, event: int) -> range:
        """Rows of the window that belong to the same request or instant as one of its events."""
        opens_E = self.store.event_opens_request_E
        first, stop = event, event + 1
        while first > self.moment.cut and not opens_E[first]:
            first -= 1
        while stop < self.moment.stop and not opens_E[stop]:
            stop += 1
        return range(first, stop)

    def milliseconds(self, earlier: int, later: int) -> int:
        """Return the time between two events."""
        return int(self.store.event_time_E[later] - self.store.event_time_E[earlier])

    def event_number(self, field: str, event: int) -> float:
        """Return a numeric field of an event, such as the hours played; NaN where unknown."""
        return float(self.shelf.event_number(field)[event])

    def event_category(self, field: str, event: int) -> str | None:
        """Return a categorical field of an event, such as `yes`; None where unknown."""
        category = self.shelf.event_category(field)
        code = int(category.codes_E[event])
        return category.names[code] if code >= 0 else None

    def past_numbers(self, field: str) -> NDArray[np.float32]:
        """Return a numeric field of all events before the moment, oldest first; NaN if unknown."""
        first = self.store.user_offsets_U1[self.moment.user]
        return self.shelf.event_number(field)[first : self.moment.cut]

    def profile_value(self, field: str) -> str | None:
        """Return the words of a field of the user's profile, None where unknown."""
        return self.shelf.profile_values(field)[self.moment.user]

    def liked(self, event: int) -> bool | None:
        """Whether the value of an event is a like; None where it is neither that nor a dislike."""
        value, card = self.value(event), self.store.card
        if card.like_at_least is not None and value >= card.like_at_least:
            return True
        return False if card.dislike_at_most is not None and value <= card.dislike_at_most else None

    @property
    def past(self) -> range:
        """Rows of all the user's events before the moment, also where the trunk shows fewer."""
        return range(int(self.store.user_offsets_U1[self.moment.user]), self.moment.cut)

    @property
    def shown(self) -> range:
        """Rows of the events that the trunk shows."""
        return range(self.moment.start, self.moment.cut)

    @property
    def window(self) -> range:
        """Rows of the events that may be asked about."""
        return range(self.moment.cut, self.moment.stop)

    @cached_property
    def history_values(self) -> NDArray[np.float32]:
        """Values of the whole history before the moment, also where the trunk shows less."""
        first = self.store.user_offsets_U1[self.moment.user]
        values = self.store.event_value_E[first : self.moment.cut]
        return values[np.isfinite(values)]

    @cached_property
    def seen(self) -> frozenset[int]:
        """Items that the user met up to the end of the window: no negative is drawn from them."""
        first = self.store.user_offsets_U1[self.moment.user]
        return frozenset(self.store.event_item_E[first : self.moment.stop].tolist())

    def until(self, milliseconds: int) -> range:
        """Rows from the moment on, for so long, within the phase of the window."""
        stop = int(self.store.user_offsets_U1[self.moment.user + 1])
        rows = slice(self.moment.cut, stop)
        inside = (self.store.event_phase_E[rows] == self.phase) & (
            self.store.event_time_E[rows] < self.moment.time + milliseconds
        )
        return range(self.moment.cut, self.moment.cut + int(inside.sum()))

    def searches(self) -> NDArray[np.int64]:
        """Rows of the user's searches from the moment on, up to where the window ends.

        They lie in the phase of the window, and the trunk shows nothing that came after them.
        """
        searches = self.store.searches
        if searches is None or self.moment.user < 0:
            return np.empty(0, np.int64)
        rows = searches.of(self.moment.user)
        time_S = searches.time_S[rows.start : rows.stop]
        inside_S = searches.phase_S[rows.start : rows.stop] == self.phase
        inside_S &= time_S >= self.moment.time
        behind = self.moment.stop
        # Without times (-1 all of them) nothing says where a window ends.
        if behind < self.store.user_offsets_U1[self.moment.user + 1] and self.moment.time >= 0:
            inside_S &= time_S < self.store.event_time_E[behind]
        return rows.start + np.flatnonzero(inside_S)

    # Items

    def negatives(self, n: int) -> list[int]:
        """Draw n distinct known items that the user has not met, by popularity^0.75.

        Fewer than n come back where the catalog runs out of such items.
        """
        found: list[int] = []
        for _ in range(4):
            for item in self.shelf.popular(self.draws.floats(2 * n + 8)).tolist():
                if item not in self.seen and item not in found:
                    found.append(item)
                    if len(found) == n:
                        return found
        # Hardly anything is left to draw from: take what there is, in random order.
        taken = self.seen.union(found)
        left = [item for item in self.shelf.known_items.tolist() if item not in taken]
        return found + self.draws.sample(left, n - len(found))

    def categories(self, field: str, item: int) -> tuple[int, ...]:
        """Return the codes of an item's categories."""
        return self.shelf.codes(field, item)

    # Pieces

    def line(self, item: int) -> int:
        """Return the piece of an item's record, which ends its line."""
        return self._line + item

    def title_line(self, item: int) -> int:
        """Return the piece of an item's title with its year, which ends its line."""
        return self._title + item

    def bare_line(self, item: int) -> int:
        """Return the piece of an item's title without its year, which ends its line."""
        return self._bare + item

    def query_line(self, query: int) -> int:
        """Return the piece of what was typed, which ends its line."""
        return self.store.piece_of(QUERY_KIND, query)

    def tag_line(self, tag: int) -> int:
        """Return the piece of a tag, which ends its line."""
        return self.store.piece_of(TAG_KIND, tag)

    def review_line(self, event: int) -> int:
        """Return the piece of what the user wrote at an event, which ends its line."""
        return self.store.piece_of(REVIEW_KIND, event)

    def profile_line(self, user: int) -> int:
        """Return the piece of a user's profile, which ends its line."""
        return self.store.piece_of("profile", user)

    def has_review(self, event: int) -> bool:
        """Whether the user wrote something at an event."""
        return len(self.store.piece(self.review_line(event))) > 0

    def inline(self, item: int) -> int:
        """Return the piece of an item's record inside a line."""
        return self._inline + item

    def action_line(self, event: int) -> int:
        """Return the piece of what the user did, as it ends a line of the history."""
        return self.store.piece_of("action", int(self.store.event_action_E[event]))

    def constant(self, text: str) -> int:
        """Return the piece of a fixed text."""
        return self.store.constant(text)

    def named_options(
        self, field: str, names: Sequence[str], options: Sequence[str]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the pieces of options, one a line, and their answers.

        Args:
            field: where the options come from.
            names: all that this field can hold.
            options: those that are offered.

        Returns:
            Options behind letters and no answers, where they are answered by letter; otherwise
            options and the token of each.
        """
        pieces = [self.constant(f" {option}\n") for option in options]
        tokens = self.shelf.name_tokens(field, names)
        if not tokens:
            return self.lettered(pieces), ()
        marker = self.constant(OPTION)
        return (
            tuple(part for piece in pieces for part in (marker, piece)),
            tuple(tokens[option] for option in options),
        )

    def lettered(self, pieces: Sequence[int]) -> tuple[int, ...]:
        """Return pieces as options, one a line, behind the letters A, B, C..."""
        behind: list[int] = []
        for letter, option in zip(self.shelf.letters, pieces, strict=False):
            behind += (letter, option)
        return tuple(behind)
