"""A product's data in canonical tables: items, users, events, all checked when written.

A corpus is a folder:

    corpus.json      the card: names, fields, counts, licence, fingerprint
    items.parquet    item_id, title, and one column per item field
    users.parquet    user_id, and one column per user field
    events.parquet   user_id, item_id, timestamp, action, value, request_id, and one column per
                     event field

and, each only where there is any:

    queries.parquet      query_id, text
    judgements.parquet   query_id, item_id, grade (higher is more relevant), label, split
    searches.parquet     user_id, query_id, timestamp, item_id, action, request_id, position
    tags.parquet         item_id, tag, user_id, timestamp, weight
    links.parquet        item_id, other_id, relation, weight

Events and searches stand by user (in the order of the users table), then time, then the order they
were given in; without times in the order given. Other tables keep their order. A corpus of judged
queries may have no users and no events. Whoever opens a corpus may rely on the checks of
`corpus_checks`.

Shape letters: E events, U users, U1 = U + 1 offsets.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from data_pipeline import corpus_writing as writing
from data_pipeline.content_hash import TableHash
from data_pipeline.corpus_checks import Origin, codes_of, milliseconds
from data_pipeline.corpus_schema import (
    OPTIONAL_TABLES,
    SCHEMA_VERSION,
    CorpusCard,
    Field,
    FieldKind,
    PublishedSplit,
    schemas,
)
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, fingerprint, refuse_existing

__all__ = [
    "Corpus",
    "CorpusCard",
    "Field",
    "FieldKind",
    "Origin",
    "PublishedSplit",
    "write_corpus",
]

log = logging.getLogger(__name__)

CARD_FILE = "corpus.json"
REBUILD = "fetch or import the corpus again"
_BATCH_ROWS = 1 << 16


class Corpus:
    """A corpus on disk; its tables are read when first asked for."""

    def __init__(self, folder: Path, card: CorpusCard) -> None:
        self.folder = folder
        self.card = card
        self._optional: dict[str, pa.Table] = {}

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = False) -> "Corpus":
        """Open a corpus after checking that its files are whole.

        Args:
            folder: what `write_corpus` wrote.
            verify: also read all tables and compare their content with the card's fingerprint.

        Raises:
            DataError: a file is missing, truncated, of another version or, with `verify`, changed.
        """
        folder = Path(folder)
        corpus = cls(folder, _read_card(folder))
        for name, schema in corpus.schemas.items():
            _check_file(folder / f"{name}.parquet", schema, corpus.card.counts[name])
        if verify:
            corpus.verify()
        return corpus

    def __repr__(self) -> str:
        return f"Corpus({self.name}, {self.card.counts}, {self.folder})"

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def fingerprint(self) -> str:
        return self.card.fingerprint

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        """Columns of each table that this corpus has, by the table's name."""
        card = self.card
        possible = schemas(card.item_fields, card.user_fields, card.event_fields)
        return {name: schema for name, schema in possible.items() if name in card.counts}

    def table(self, name: str) -> pa.Table | None:
        """A table by its name; None for an optional one that this corpus does not have.

        Raises:
            ValueError: no corpus has a table of this name.
        """
        possible = ("items", "users", "events", *OPTIONAL_TABLES)
        if name not in possible:
            raise ValueError(f"a corpus has no table '{name}': choose of {', '.join(possible)}")
        if name not in self.schemas:
            return None
        if name not in OPTIONAL_TABLES:
            table: pa.Table = getattr(self, name)
            return table
        if name not in self._optional:
            self._optional[name] = self._read(name)
        return self._optional[name]

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of a table, a bounded number of rows at a time: for tables of any size."""
        path = self.folder / f"{name}.parquet"
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error

    def column(self, table: str, name: str) -> pa.ChunkedArray:
        """One column of a table, alone where the table has not been read: texts stay on disk."""
        known = self.__dict__.get(table, self._optional.get(table))
        if known is not None:
            return known[name]
        return self._read(table, [name])[name]

    @cached_property
    def items(self) -> pa.Table:
        return self._read("items")

    @cached_property
    def users(self) -> pa.Table:
        return self._read("users")

    @cached_property
    def events(self) -> pa.Table:
        """All columns, long texts included: `column` and `batches` need less memory."""
        return self._read("events")

    @cached_property
    def event_user_E(self) -> npt.NDArray[np.int32]:
        """Row of each event's user in `users`."""
        return codes_of(self.column("events", "user_id"), self.users["user_id"])

    @cached_property
    def event_item_E(self) -> npt.NDArray[np.int32]:
        """Row of each event's item in `items`."""
        return codes_of(self.column("events", "item_id"), self.items["item_id"])

    @cached_property
    def time_E(self) -> npt.NDArray[np.int64]:
        """Milliseconds since 1970 of each event; `UNKNOWN_TIME` in a corpus without times."""
        return milliseconds(self.column("events", "timestamp"))

    @cached_property
    def user_offsets_U1(self) -> npt.NDArray[np.int64]:
        """User u's events are rows offsets[u] to offsets[u + 1] of `events`."""
        counts_U = np.bincount(self.event_user_E, minlength=len(self.users))
        return np.concatenate([[0], np.cumsum(counts_U)]).astype(np.int64)

    def verify(self) -> None:
        """Read all tables and compare their content with the card.

        Raises:
            DataError: they differ, or a table cannot be read.
        """
        hashes = {}
        for name, schema in self.schemas.items():
            hasher = TableHash(schema)
            for batch in self.batches(name, schema.names):
                hasher.update(pa.Table.from_batches([batch]))
            hashes[name] = hasher.hexdigest()
        card = self.card
        found = _fingerprint(hashes, card.item_fields, card.user_fields, card.event_fields)
        if found != self.fingerprint:
            raise DataError(
                f"the tables' content has fingerprint {found}, the card says {self.fingerprint}",
                file=self.folder,
                remedy=f"a file was changed after it was written: {REBUILD}",
            )

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        path = self.folder / f"{name}.parquet"
        try:
            return pq.read_table(path, columns=columns, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error


def write_corpus(
    folder: Path | str,
    *,
    name: str,
    items: pa.Table,
    users: pa.Table | None = None,
    events: pa.Table | None = None,
    item_fields: Sequence[Field] = (),
    user_fields: Sequence[Field] = (),
    event_fields: Sequence[Field] = (),
    queries: pa.Table | None = None,
    judgements: pa.Table | None = None,
    searches: pa.Table | None = None,
    tags: pa.Table | None = None,
    links: pa.Table | None = None,
    item_noun: str = "item",
    source: str = "",
    licence: str = "",
    published_split: PublishedSplit | None = None,
    origins: Mapping[str, Origin] | None = None,
    dropped: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Corpus:
    """Check tables and write them as a corpus, or raise and write nothing.

    Tables may be memory-mapped: long texts of events are read a piece at a time.

    Args:
        folder: where the corpus is to stand.
        name: the corpus's name.
        items: item_id, title and the declared item fields; other columns are an error.
        users: user_id and the declared user fields.
        events: user_id, item_id, timestamp, action and the declared event fields; value and
            request_id may be left out. Timestamps are all given or all null. None, or without
            rows, only where another table says something of the items.
        item_fields: the item columns beside item_id and title.
        user_fields: the user columns beside user_id.
        event_fields: the further event columns, of kind text, category or number.
        queries: query_id, text. Like all that follow, left out or without rows if there are none.
        judgements: query_id, item_id, grade; label and split may be left out.
        searches: user_id, query_id, timestamp, action; item_id, request_id and position may be
            left out. Timestamps are all given where events have times.
        tags: item_id, tag; user_id, timestamp and weight may be left out.
        links: item_id, other_id, relation; weight may be left out.
        item_noun: what one item is called in a prompt.
        source: where the data came from.
        licence: what may be done with them.
        published_split: the publisher's own moments, for `SplitConfig(method="published")`.
        origins: by the table's name: where the rows came from, for error messages.
        dropped: how many rows were left out before, by reason; the card's counts keep it.
        overwrite: replace a corpus that stands there.

    Raises:
        DataError: the first thing found wrong, with its place and remedy.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite)
    fields = (tuple(item_fields), tuple(user_fields), tuple(event_fields))
    known = schemas(*fields)
    optional = {
        "queries": queries,
        "judgements": judgements,
        "searches": searches,
        "tags": tags,
        "links": links,
    }
    given = {
        "items": items,
        "users": known["users"].empty_table() if users is None else users,
        "events": known["events"].empty_table() if events is None else events,
        **{name: table for name, table in optional.items() if table is not None and len(table)},
    }
    checked = writing.checked_tables(given, known, fields, origins or {})
    with atomic_folder(folder, overwrite=overwrite) as temp:
        hashes = {
            table: writing.write_table(temp / f"{table}.parquet", known[table], rows.pieces())
            for table, rows in checked.items()
        }
        coded = checked["events"]
        card = CorpusCard(
            name=name,
            item_noun=item_noun,
            source=source,
            licence=licence,
            item_fields=fields[0],
            user_fields=fields[1],
            event_fields=fields[2],
            has_times=coded.has_times,
            actions=coded.labels("action"),
            values=coded.numbers("value"),
            counts={table: len(rows) for table, rows in checked.items()}
            | {f"dropped_{reason}": count for reason, count in (dropped or {}).items()},
            fingerprint=_fingerprint(hashes, *fields),
            published_split=published_split,
        )
        text = json.dumps(asdict(card), indent=2, ensure_ascii=False)
        (temp / CARD_FILE).write_text(text + "\n", encoding="utf-8")
    log.info("wrote corpus %s to %s: %s", name, folder, card.counts)
    return Corpus.open(folder)


def _fingerprint(
    hashes: Mapping[str, str],
    item_fields: Sequence[Field],
    user_fields: Sequence[Field],
    event_fields: Sequence[Field],
) -> str:
    content = {
        "tables": dict(hashes),
        "item_fields": [asdict(field) for field in item_fields],
        "user_fields": [asdict(field) for field in user_fields],
    }
    if event_fields:  # a corpus without them keeps the fingerprint that it always had
        content["event_fields"] = [asdict(field) for field in event_fields]
    return fingerprint(content)


def _read_card(folder: Path) -> CorpusCard:
    path = folder / CARD_FILE
    if not path.is_file():
        raise DataError(
            "this is not a corpus: its card is missing",
            file=path,
            remedy="name a folder that `brewhouse data fetch` or `brewhouse data import` wrote",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"the corpus has version {version}, this program reads version {SCHEMA_VERSION}",
                file=path,
                remedy=REBUILD,
            )
        return TypeAdapter(CorpusCard).validate_python(content)
    except (
        OSError,
        AttributeError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        ValidationError,
    ) as error:
        raise _damaged(path, error) from error


def _check_file(path: Path, schema: pa.Schema, n_rows: int) -> None:
    """A table's footer is readable and says what the card says."""
    try:
        with pq.ParquetFile(path) as file:
            found_schema, found_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    if found_rows != n_rows or not found_schema.equals(schema):
        raise DataError(
            f"the card promises {n_rows} rows of {', '.join(schema.names)}; "
            f"the file has {found_rows} of {', '.join(found_schema.names)}",
            file=path,
            remedy=REBUILD,
        )


def _damaged(path: Path, error: Exception) -> DataError:
    what = "cannot be read" if path.exists() else "is missing"
    return DataError(f"a file of the corpus {what}: {error}", file=path, remedy=REBUILD)
