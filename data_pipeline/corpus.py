"""A product's data in canonical tables: items, users, events, all checked when written.

A corpus is a folder:

    corpus.json      the card: names, fields, counts, licence, fingerprint
    items.parquet    item_id, title, and one column per item field
    users.parquet    user_id, and one column per user field
    events.parquet   user_id, item_id, timestamp, action, value, request_id

Events stand by user (in the order of the users table), then time, then the order they were given
in. Whoever opens a corpus may rely on the checks of `corpus_checks`.

Shape letters: E events, U users, U1 = U + 1 offsets.
"""

import json
import logging
from collections.abc import Mapping, Sequence
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
from data_pipeline.corpus_checks import Origin, codes_of
from data_pipeline.corpus_schema import (
    EVENT_SCHEMA,
    SCHEMA_VERSION,
    CorpusCard,
    Field,
    FieldKind,
    item_schema,
    user_schema,
)
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, fingerprint, refuse_existing

__all__ = ["Corpus", "CorpusCard", "Field", "FieldKind", "Origin", "write_corpus"]

log = logging.getLogger(__name__)

CARD_FILE = "corpus.json"
REBUILD = "fetch or import the corpus again"


class Corpus:
    """A corpus on disk; its tables are read when first asked for."""

    def __init__(self, folder: Path, card: CorpusCard) -> None:
        self.folder = folder
        self.card = card

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
        for name, schema in _schemas(corpus.card.item_fields, corpus.card.user_fields).items():
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
    def items(self) -> pa.Table:
        return self._read("items")

    @cached_property
    def users(self) -> pa.Table:
        return self._read("users")

    @cached_property
    def events(self) -> pa.Table:
        return self._read("events")

    @cached_property
    def event_user_E(self) -> npt.NDArray[np.int32]:
        """Row of each event's user in `users`."""
        return codes_of(self.events["user_id"], self.users["user_id"])

    @cached_property
    def event_item_E(self) -> npt.NDArray[np.int32]:
        """Row of each event's item in `items`."""
        return codes_of(self.events["item_id"], self.items["item_id"])

    @cached_property
    def time_E(self) -> npt.NDArray[np.int64]:
        """Milliseconds since 1970 of each event."""
        time_E: npt.NDArray[np.int64] = self.events["timestamp"].cast(pa.int64()).to_numpy()
        return time_E

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
        schemas = _schemas(self.card.item_fields, self.card.user_fields)
        for name, table in (("items", self.items), ("users", self.users), ("events", self.events)):
            hasher = TableHash(schemas[name])
            hasher.update(table)
            hashes[name] = hasher.hexdigest()
        found = _fingerprint(hashes, self.card.item_fields, self.card.user_fields)
        if found != self.fingerprint:
            raise DataError(
                f"the tables' content has fingerprint {found}, the card says {self.fingerprint}",
                file=self.folder,
                remedy=f"a file was changed after it was written: {REBUILD}",
            )

    def _read(self, name: str) -> pa.Table:
        path = self.folder / f"{name}.parquet"
        try:
            return pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error


def write_corpus(
    folder: Path | str,
    *,
    name: str,
    items: pa.Table,
    users: pa.Table,
    events: pa.Table,
    item_fields: Sequence[Field] = (),
    user_fields: Sequence[Field] = (),
    item_noun: str = "item",
    source: str = "",
    licence: str = "",
    origins: Mapping[str, Origin] | None = None,
    dropped: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Corpus:
    """Check three tables and write them as a corpus, or raise and write nothing.

    Args:
        folder: where the corpus is to stand.
        name: the corpus's name.
        items: item_id, title and the declared item fields; other columns are an error.
        users: user_id and the declared user fields.
        events: user_id, item_id, timestamp, action; value and request_id may be left out.
        item_fields: the item columns beside item_id and title.
        user_fields: the user columns beside user_id.
        item_noun: what one item is called in a prompt.
        source: where the data came from.
        licence: what may be done with them.
        origins: for "items", "users", "events": where the rows came from, for error messages.
        dropped: how many events were left out before, by reason; the card's counts keep it.
        overwrite: replace a corpus that stands there.

    Raises:
        DataError: the first thing found wrong, with its place and remedy.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite)
    places = {table: Origin(files=(f"table {table}",)) for table in ("items", "users", "events")}
    places.update(origins or {})
    schemas = _schemas(item_fields, user_fields)
    items = writing.checked_items(items, schemas["items"], item_fields, places["items"])
    users = writing.checked_users(users, schemas["users"], user_fields, places["users"])
    coded = writing.checked_events(events, items["item_id"], users["user_id"], places)
    pieces = {
        "items": lambda: iter([items]),
        "users": lambda: iter([users]),
        "events": coded.pieces,
    }
    with atomic_folder(folder, overwrite=overwrite) as temp:
        hashes = {
            table: writing.write_table(temp / f"{table}.parquet", schemas[table], piece())
            for table, piece in pieces.items()
        }
        card = CorpusCard(
            name=name,
            item_noun=item_noun,
            source=source,
            licence=licence,
            item_fields=tuple(item_fields),
            user_fields=tuple(user_fields),
            actions=coded.actions,
            values=coded.values,
            counts={
                "items": len(items),
                "users": len(users),
                "events": len(coded.events),
                **{f"dropped_{reason}": count for reason, count in (dropped or {}).items()},
            },
            fingerprint=_fingerprint(hashes, item_fields, user_fields),
        )
        text = json.dumps(asdict(card), indent=2, ensure_ascii=False)
        (temp / CARD_FILE).write_text(text + "\n", encoding="utf-8")
    log.info("wrote corpus %s to %s: %s", name, folder, card.counts)
    return Corpus.open(folder)


def _fingerprint(
    hashes: Mapping[str, str], item_fields: Sequence[Field], user_fields: Sequence[Field]
) -> str:
    return fingerprint(
        {
            "tables": dict(hashes),
            "item_fields": [asdict(field) for field in item_fields],
            "user_fields": [asdict(field) for field in user_fields],
        }
    )


def _schemas(item_fields: Sequence[Field], user_fields: Sequence[Field]) -> dict[str, pa.Schema]:
    return {
        "items": item_schema(item_fields),
        "users": user_schema(user_fields),
        "events": EVENT_SCHEMA,
    }


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
