"""The token store: a corpus compiled for one tokenizer, memory-mapped.

Prompts are never written. The store keeps the ids of every *piece* (item record, title, profile,
age, action, query, tag, review) once, and events, searches, judgements, tags and links as rows; a
prompt is a list of pieces.

Shapes: T tokens, P pieces, E events, U users, N items, S pieces of one trunk.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from data_pipeline.errors import DataError
from data_pipeline.statistics import Statistics
from data_pipeline.store_card import (
    CARD_FILE,
    SCHEMA_VERSION,
    CategoryField,
    StoreCard,
    ranges,
    with_room,
)
from data_pipeline.store_tables import (
    QUERY_KIND,
    REVIEW_KIND,
    TAG_KIND,
    EventCategory,
    Judgements,
    Links,
    Queries,
    Searches,
    TableT,
    Tags,
    map_array,
    open_table,
)
from data_pipeline.tokenizer import TextEncoder
from data_pipeline.tree import Ids, Moment
from data_pipeline.verbalize import AGE_BOUNDS, GAPS_CUE, HISTORY_CUE, since_text

__all__ = ["CategoryField", "EventSpans", "StoreCard", "TokenStore", "open_stores"]

TOKENIZER_FOLDER: Final = "tokenizer"
EVENT_FIELDS_FOLDER: Final = "event_fields"
ARRAYS: Final = (
    "tokens",
    "piece_offsets",
    "title_lengths",
    "user_offsets",
    "train_stops",
    "event_item",
    "event_time",
    "event_action",
    "event_value",
    "event_phase",
    "event_opens_request",
)


class TokenStore:
    """A read-only view of a compiled folder. Open it with `TokenStore.open`."""

    def __init__(self, folder: Path, card: StoreCard, arrays: Mapping[str, np.ndarray]) -> None:
        self.folder = folder
        self.card = card
        self.tokens_T: Ids = arrays["tokens"]
        self.piece_offsets_P1: NDArray[np.int64] = arrays["piece_offsets"]
        self.title_lengths_N: NDArray[np.int64] = arrays["title_lengths"]
        self.user_offsets_U1: NDArray[np.int64] = arrays["user_offsets"]
        self.train_stops_U: NDArray[np.int64] = arrays["train_stops"]
        self.event_item_E: NDArray[np.int32] = arrays["event_item"]
        self.event_time_E: NDArray[np.int64] = arrays["event_time"]
        self.event_action_E: NDArray[np.int16] = arrays["event_action"]
        self.event_value_E: NDArray[np.float32] = arrays["event_value"]
        self.event_phase_E: NDArray[np.int8] = arrays["event_phase"]
        self.event_opens_request_E: NDArray[np.bool_] = arrays["event_opens_request"]

        def table(kind: type[TableT], name: str) -> TableT | None:
            return open_table(kind, folder / name) if name in card.counts else None

        self.queries = table(Queries, "queries")
        self.judgements = table(Judgements, "judgements")
        self.searches = table(Searches, "searches")
        self.tags = table(Tags, "tags")
        self.links = table(Links, "links")
        self._event_fields = {
            name: open_table(EventCategory, folder / EVENT_FIELDS_FOLDER / name)
            if kind == "category"
            else map_array(folder / EVENT_FIELDS_FOLDER / f"{name}.number.npy")
            for name, kind in card.event_fields.items()
            if kind != "text"
        }
        # Constants follow the store's own pieces, and their tokens follow the store's own tokens.
        # The arrays have room to grow: the names of a field's values may be very many constants.
        self._constant_ids: dict[bytes, int] = {}
        self._constants: dict[str, int] = {}
        self._constant_tokens: Ids = np.empty(0, np.int32)
        self._constant_offsets: NDArray[np.int64] = np.zeros(1, np.int64)

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStore":
        """Map a compiled store. Raises DataError where a file is missing, short or foreign."""
        folder = Path(folder)
        path = folder / CARD_FILE
        if not path.is_file():
            raise DataError(
                "this is no token store",
                file=path,
                remedy="compile one: brewhouse data build CORPUS --tokenizer ... --out STORE",
            )
        try:
            version = json.loads(path.read_bytes()).get("schema_version")
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"the store has schema {version}, this version reads {SCHEMA_VERSION}",
                    file=path,
                    remedy="compile it again with brewhouse data build ... --overwrite",
                )
            card = TypeAdapter(StoreCard).validate_json(path.read_bytes())
            return cls(folder, card, {name: map_array(folder / f"{name}.npy") for name in ARRAYS})
        except DataError:
            raise
        except (OSError, AttributeError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"the token store cannot be read: {error}",
                file=folder,
                remedy="compile it again with brewhouse data build ... --overwrite",
            ) from error

    # Sizes and names

    @property
    def n_items(self) -> int:
        """Items of the corpus."""
        return len(self.title_lengths_N)

    @property
    def n_users(self) -> int:
        """Users of the corpus."""
        return len(self.user_offsets_U1) - 1

    @property
    def n_events(self) -> int:
        """Events of the corpus."""
        return len(self.event_item_E)

    @property
    def fingerprint(self) -> str:
        """Of corpus, tokenizer, split and verbalisation."""
        return self.card.fingerprint

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files are."""
        return self.folder / TOKENIZER_FOLDER

    @cached_property
    def encoder(self) -> TextEncoder:
        """The tokenizer that the store was compiled with."""
        return TextEncoder.load(self.tokenizer_folder)

    @cached_property
    def item_ids(self) -> list[str]:
        """The corpus's own id of every item row."""
        return list(self._names("items", "item_id"))

    @cached_property
    def titles(self) -> list[str]:
        """The title of every item row."""
        return list(self._names("items", "title"))

    @cached_property
    def user_ids(self) -> list[str]:
        """The corpus's own id of every user row."""
        return list(self._names("users", "user_id"))

    @cached_property
    def statistics(self) -> Statistics:
        """Counts and means of the training events."""
        return Statistics.load(self.folder / "statistics")

    def categories(self, field: str) -> CategoryField:
        """Return a categorical item field."""
        return self._category_fields[field]

    def number(self, field: str) -> NDArray[np.float64]:
        """Return a numeric item field, or a year; NaN where unknown; shape [N]."""
        values: NDArray[np.float64] = np.load(
            self.folder / "fields" / f"{field}.number.npy", allow_pickle=False
        )
        return values

    def event_number(self, field: str) -> NDArray[np.float32]:
        """Return a numeric event field, NaN where unknown; shape [E]. KeyError if there is none."""
        values = self._event_fields[field]
        if isinstance(values, EventCategory):
            raise KeyError(field)
        return values

    def event_category(self, field: str) -> EventCategory:
        """Return a categorical event field. KeyError if there is none."""
        values = self._event_fields[field]
        if not isinstance(values, EventCategory):
            raise KeyError(field)
        return values

    def user_of_event(self, event: int) -> int:
        """Return the row of the user whose event this is."""
        return int(np.searchsorted(self.user_offsets_U1, event, side="right")) - 1

    @cached_property
    def _category_fields(self) -> dict[str, CategoryField]:
        found = {}
        for name in self.card.category_fields:
            base = self.folder / "fields" / name
            names = pq.read_table(f"{base}.names.parquet")["name"].to_pylist()
            offsets, codes = (
                np.load(f"{base}.{part}.npy", allow_pickle=False) for part in ("offsets", "codes")
            )
            found[name] = CategoryField(tuple(names), offsets, codes)
        return found

    def _names(self, table: str, column: str) -> list[str]:
        names: list[str] = pq.read_table(self.folder / f"{table}.parquet", columns=[column])[
            column
        ].to_pylist()
        return names

    # Pieces

    @property
    def n_pieces(self) -> int:
        """Pieces of the store itself, without constants."""
        return len(self.piece_offsets_P1) - 1

    def piece(self, piece: int) -> Ids:
        """Return the ids of one piece."""
        if piece >= self.n_pieces:
            first, stop = self._constant_offsets[piece - self.n_pieces :][:2]
            return self._constant_tokens[first:stop]
        return self.tokens_T[self.piece_offsets_P1[piece] : self.piece_offsets_P1[piece + 1]]

    def piece_of(self, kind: str, row: int) -> int:
        """Return the piece of one row, as in `piece_of("line/plain", item)`."""
        return self.card.first_piece[kind] + row

    def query_piece(self, query: int) -> int:
        """Return the piece of a query's text. It stands behind a colon and ends its line."""
        return self.card.first_piece[QUERY_KIND] + query

    def tag_piece(self, tag: int) -> int:
        """Return the piece of a distinct tag. It stands behind a colon and ends its line."""
        return self.card.first_piece[TAG_KIND] + tag

    def review_piece(self, event: int) -> int | None:
        """Return the piece of what the user wrote, or None. Behind a colon; it ends its line."""
        first = self.card.first_piece.get(REVIEW_KIND)
        if first is None or not len(self.piece(first + event)):
            return None
        return first + event

    def constant(self, text: str) -> int:
        """Return the piece of a fixed text, encoding it when it is first asked for."""
        found = self._constants.get(text)
        if found is None:
            found = self._constants[text] = self.constant_of(self.encoder.piece(text))
        return found

    def constant_of(self, ids: Ids) -> int:
        """Return the piece that holds these ids."""
        key = ids.tobytes()
        if key not in self._constant_ids:
            n = len(self._constant_ids)
            begin = int(self._constant_offsets[n])
            end = begin + len(ids)
            self._constant_tokens = with_room(self._constant_tokens, end)
            self._constant_offsets = with_room(self._constant_offsets, n + 2)
            self._constant_tokens[begin:end] = ids
            self._constant_offsets[n + 1] = end
            self._constant_ids[key] = self.n_pieces + n
        return self._constant_ids[key]

    def gather(self, pieces: Sequence[int]) -> tuple[Ids, NDArray[np.int64]]:
        """Join many pieces at once: a few numpy calls, however many pieces.

        Returns:
            Their ids one after another, and the length of each piece.
        """
        n_tokens = len(self.tokens_T)
        pieces_S = np.array(pieces, np.int64)
        constant_S = pieces_S >= self.n_pieces
        own_S = np.where(constant_S, 0, pieces_S)
        starts_S = self.piece_offsets_P1[own_S]
        lengths_S = self.piece_offsets_P1[own_S + 1] - starts_S
        constants = pieces_S[constant_S] - self.n_pieces
        begins = self._constant_offsets[constants]
        starts_S[constant_S] = n_tokens + begins
        lengths_S[constant_S] = self._constant_offsets[constants + 1] - begins
        source = ranges(starts_S, lengths_S)
        own = source < n_tokens
        ids = np.empty(len(source), np.int32)
        ids[own] = self.tokens_T[source[own]]
        ids[~own] = self._constant_tokens[source[~own] - n_tokens]
        return ids, lengths_S

    def title_tokens(self, item: int) -> Ids:
        """Return the ids that answer a title task: the title, then a line end."""
        return self.piece(self.piece_of("title", item))

    @cached_property
    def _start(self) -> Ids:
        return self.encoder.start(f"Questions about {self.card.item_noun}s.\n")

    @cached_property
    def _profile_cue(self) -> Ids:
        return self.encoder.piece("Profile:")

    @cached_property
    def _examples_cue(self) -> Ids:
        return self.encoder.piece("Examples:\n")

    # Trunks

    def trunk(
        self, moment: Moment, style: str, max_tokens: int, *, open_end: bool = False
    ) -> tuple[Ids, "EventSpans"]:
        """Assemble the trunk of a moment: profile and dated history, newest last.

        The oldest whole events are dropped until the trunk fits `max_tokens`. Without a user it
        holds the moment's demonstrations, nearest last; the farthest are dropped first. A history
        dated by gaps ends with how long ago its last event was; with `open_end` that line is left
        for the branches to begin with (`since`), as each may be attached elsewhere.
        """
        if moment.user < 0:
            return self._demonstrated(moment.demonstrations, max_tokens), EventSpans.none()
        profile = self.piece(
            self.constant(" unknown\n")
            if moment.anonymous
            else self.piece_of("profile", moment.user)
        )
        head = [self._start, self._profile_cue, profile]
        if moment.cut == moment.start:
            return np.concatenate(head), EventSpans.none()
        since = self.since(moment)
        cue = HISTORY_CUE if since is None else GAPS_CUE
        head.append(self.piece(self.constant(cue)))
        tail = [] if since is None else [self.piece(since)]
        offset = sum(map(len, head))
        room = max_tokens - offset - sum(map(len, tail))
        history, spans = self._history(moment, style, room, offset)
        return np.concatenate([*head, history, *([] if open_end else tail)]), spans

    def since(self, moment: Moment) -> int | None:
        """Return the piece that says how long before the moment the last event was.

        None where events are dated by their age, which says it, or where none is shown.
        """
        if moment.ages == "moment" or moment.cut == moment.start or not self.card.has_times:
            return None
        return self.constant(since_text(moment.time - int(self.event_time_E[moment.cut - 1])))

    def _demonstrated(self, rows: Sequence[Sequence[int]], max_tokens: int) -> Ids:
        head, found = [self._start, self._examples_cue], list[Ids]()
        room = max_tokens - sum(map(len, head))
        for row in rows:
            ids, _ = self.gather(row)
            room -= len(ids)
            if room < 0:
                break
            found.append(ids)
        return np.concatenate([*head, *reversed(found)]) if found else self._start

    def _history(
        self, moment: Moment, style: str, room: int, offset: int
    ) -> tuple[Ids, "EventSpans"]:
        rows = slice(moment.start, moment.cut)
        age: NDArray[np.intp] | int = 0  # the one that says nothing
        if self.card.has_times:
            age = np.searchsorted(AGE_BOUNDS, self._ages(moment), side="right")
        item = self.event_item_E[rows]
        action = self.event_action_E[rows].astype(np.int64)  # pieces outnumber int16
        first = self.card.first_piece
        pieces_S = np.empty(3 * len(item), np.int64)
        pieces_S[0::3] = age + first["age"]
        pieces_S[1::3] = item + first[f"inline/{style}"]
        pieces_S[2::3] = action + first["action"]
        starts_S = self.piece_offsets_P1[pieces_S]
        lengths_S = self.piece_offsets_P1[pieces_S + 1] - starts_S
        ends_S = np.cumsum(lengths_S)
        if ends_S[-1] > room:  # rare: drop the oldest whole events
            per_event = lengths_S.reshape(-1, 3).sum(axis=1)
            kept = int((np.cumsum(per_event[::-1]) <= room).sum())
            dropped = 3 * (len(item) - kept)
            starts_S, lengths_S = starts_S[dropped:], lengths_S[dropped:]
            item = item[len(item) - kept :]
            ends_S = np.cumsum(lengths_S)
        if not len(lengths_S):
            return np.empty(0, np.int32), EventSpans.none()
        begins_S = ends_S - lengths_S
        spans = EventSpans(
            lines=begins_S[0::3] + offset,
            records=begins_S[1::3] + offset,
            actions=begins_S[2::3] + offset,
            items=item,
        )
        return self.tokens_T[ranges(starts_S, lengths_S)], spans

    def _ages(self, moment: Moment) -> NDArray[np.int64]:
        """Milliseconds that date each event shown, oldest first; no gap lies before a user's first.

        Shape: the events of the history.
        """
        if moment.ages == "moment":
            ages: NDArray[np.int64] = moment.time - self.event_time_E[moment.start : moment.cut]
            return ages
        known = int(moment.start > self.user_offsets_U1[moment.user])
        times = self.event_time_E[moment.start - known : moment.cut]
        gaps: NDArray[np.int64] = np.diff(times, prepend=() if known else times[:1])
        return gaps


@dataclass(frozen=True, slots=True)
class EventSpans:
    """Where in a trunk each event's line, record and action begin, and whose record it is."""

    lines: NDArray[np.int64]
    records: NDArray[np.int64]
    actions: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def none(cls) -> "EventSpans":
        """Return the spans of a trunk without history."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, empty, np.empty(0, np.int32))


def open_stores(folders: Sequence[str | Path]) -> list[TokenStore]:
    """Open several stores that one model shall read: they must share a tokenizer.

    Raises:
        DataError: two stores were compiled for different tokenizers.
    """
    stores = [TokenStore.open(folder) for folder in folders]
    for store in stores[1:]:
        if store.card.tokenizer_fingerprint != stores[0].card.tokenizer_fingerprint:
            raise DataError(
                "the token stores were compiled for different tokenizers",
                file=store.folder,
                value=store.card.tokenizer_fingerprint,
                remedy="compile both with the same --tokenizer, such as "
                f"{stores[0].tokenizer_folder}",
            )
    return stores
