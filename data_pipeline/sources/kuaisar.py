"""KuaiSAR: 25,877 people's recommendations and searches in one app for short videos, May 2023.

    kuaisar:full    22 May to 10 June, 14,605,716 recommended videos and 5,059,169 search results
    kuaisar:small   the first nine days, 7,493,101 and 3,171,231

There is no language in it: captions and queries are numbers that stand for words, and are kept as
such ("20 34 3"). A recommended video gives one event, "clicked" or "skipped", and one more for each
other thing that the person did with it. Search results are not events but rows of `searches`.

Z. Sun et al., "KuaiSAR: A Unified Search And Recommendation Dataset", CIKM 2023.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.corpus_checks import Origin, codes_of
from data_pipeline.corpus_schema import OPTIONAL_TABLES, item_schema
from data_pipeline.sources import convert
from data_pipeline.sources.archives import fetch_archive
from data_pipeline.sources.assembly import (
    check_counts,
    first_of_each,
    listed,
    repeated,
    with_undescribed,
)
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.profiles import counted, described, known
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import csv_tables

_FILES = {
    "events": "rec_inter.csv",
    "searches": "src_inter.csv",
    "items": "item_features.csv",
    "users": "user_features.csv",
    "follows": "social_network.csv",
}
# Archive and the folder in it.
_ARCHIVES = {"full": ("KuaiSAR_v2.zip", "KuaiSAR_v2"), "small": ("KuaiSAR.zip", "KuaiSAR_final")}
_EVENT_COLUMNS = (
    *("user_id", "item_id", "timestamp", "playing_time", "duration_ms"),
    *("click", "like", "follow", "forward", "search"),
)
# What the person did beside clicking: column -> action.
_DEEDS = {"like": "liked", "follow": "followed", "forward": "forwarded", "search": "searched"}
_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("action", pa.string()),
        ("watch_ratio", pa.float64()),
    ]
)
_SEARCH_COLUMNS = {
    "user_id": "user_id",
    "item_id": "item_id",
    "session": "search_session_id",
    "timestamp": "search_session_timestamp",
    "words": "keyword",
    "clicks": "click_cnt",
}
_SEARCHES = OPTIONAL_TABLES["searches"].schema
_LEVELS = ("category", "subcategory", "topic", "subtopic")
_ITEM_COLUMNS = {
    "item_id": "item_id",
    "caption": "caption",
    "author": "author_id",
    "kind": "item_type",
    **{
        level: f"{ordinal}_level_category_name_en"
        for level, ordinal in zip(_LEVELS, ("first", "second", "third", "fourth"), strict=True)
    },
}
_ITEM_FIELDS = (*(Field(name=name, kind="category") for name in (*_LEVELS, "author", "kind")),)
_USER_COLUMNS = ("search_active_level", "rec_active_level", "onehot_feat1", "onehot_feat2")
_USER_FIELDS = (
    *(Field(name=name, kind="category") for name in _USER_COLUMNS),
    Field(name="follows", kind="number"),
)
# A few captions have thousands of words.
_TITLE_WORDS = 64


def _counts() -> dict[str, dict[str, int]]:
    """The publisher's tables (kuaisar.github.io)."""
    return {
        "full": {"users": 25_877, "recommendations": 14_605_716, "search results": 5_059_169},
        "small": {"users": 25_877, "recommendations": 7_493_101, "search results": 3_171_231},
    }


@dataclass(frozen=True, kw_only=True)
class KuaiSAR(Source):
    """One of the two releases of KuaiSAR."""

    name: str = "kuaisar"
    licence: str = (
        "CC BY-NC-SA 4.0 (creativecommons.org/licenses/by-nc-sa/4.0): no commercial use, share "
        "alike, cite Sun et al., 2023"
    )
    homepage: str = "https://kuaisar.github.io"
    variants: tuple[str, ...] = ("full", "small")
    variant: str = ""
    url: str = "https://zenodo.org/records/8181109/files"
    md5: Mapping[str, str] = field(
        default_factory=lambda: {"small": "daea8cbf605db6bd5841740f0e4a12d9"}
    )
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=_counts)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        archive, folder = _ARCHIVES[self.variant]
        return fetch_archive(
            self.full_name,
            f"{self.url}/{archive}",
            self.cache(cache_dir),
            members={role: f"{folder}/{name}" for role, name in _FILES.items()},
            md5=self.md5.get(self.variant),
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        with spool_beside(folder) as spool:
            log = _Log(paths, spool)
            found = {
                "users": len(log.users),
                "recommendations": log.n_recommended,
                "search results": log.n_results,
            }
            published = self.counts[self.variant]
            check_counts(self.full_name, found, published, paths["events"].parent)
            queries = log.searches.select(["query_id"])
            queries = queries.filter(pa.array(first_of_each(queries, ["query_id"])))
            return write_corpus(
                folder,
                name=self.full_name,
                items=_items(paths["items"], log.items, spool),
                users=_users(paths, log.users),
                events=log.events,
                item_fields=_ITEM_FIELDS,
                user_fields=_USER_FIELDS,
                event_fields=(Field(name="watch_ratio", kind="number"),),
                queries=queries.append_column("text", queries["query_id"]),
                searches=log.searches,
                item_noun="video",
                source=f"KuaiSAR ({self.variant}), {self.homepage}",
                licence=self.licence,
                dropped=log.dropped,
                overwrite=overwrite,
            )


class _Log:
    """Both logs: events, searches, and whom and what they are about."""

    def __init__(self, paths: Paths, spool: Path) -> None:
        self.n_recommended = 0
        self.n_results = 0
        events = spooled(spool, _EVENTS, self._events(paths["events"]))
        self.events = kept(spool, events, ~repeated(events))
        results = spooled(spool, _SEARCHES, self._results(paths["searches"]))
        is_asked_S = pc.not_equal(results["query_id"], "").to_numpy()
        asked = kept(spool, results, is_asked_S)
        self.searches = kept(spool, asked, _one_of_each_result(asked))
        self.users, self.items = (
            listed(pa.chunked_array([listed(events[name]), listed(results[name])]))
            for name in ("user_id", "item_id")
        )
        self.dropped = {
            "duplicates": len(events) - len(self.events),
            "searches_without_words": len(results) - len(asked),
            "repeated_results": len(asked) - len(self.searches),
        }

    def _events(self, path: Path) -> Iterator[pa.Table]:
        for table, origin in csv_tables(path, {name: name for name in _EVENT_COLUMNS}):
            self.n_recommended += len(table)
            base = table.select(["user_id", "item_id"])
            base = base.append_column("timestamp", _times(table["timestamp"], origin))
            is_clicked = _is_set(table, "click", origin)
            lengths = convert.to_numbers(table["duration_ms"], "duration_ms", origin)
            lengths = pc.if_else(pc.greater(lengths, 0), lengths, pa.scalar(None, pa.float64()))
            watched = convert.to_numbers(table["playing_time"], "playing_time", origin)
            yield base.append_column(
                "action", pc.if_else(is_clicked, "clicked", "skipped")
            ).append_column("watch_ratio", pc.divide(watched, lengths))
            for column, action in _DEEDS.items():
                done = base.filter(_is_set(table, column, origin))
                done = done.append_column("action", pa.repeat(action, len(done)))
                yield done.append_column("watch_ratio", pa.nulls(len(done), pa.float64()))

    def _results(self, path: Path) -> Iterator[pa.Table]:
        """The order of results is not documented, so they have no position."""
        for table, origin in csv_tables(path, _SEARCH_COLUMNS):
            self.n_results += len(table)
            # A person's session numbers are used again: only with the time they name a session.
            requests = pc.binary_join_element_wise(
                table["user_id"], table["session"], table["timestamp"], "/"
            )
            clicks = convert.to_numbers(table["clicks"], "clicks", origin)
            yield pa.table(
                {
                    "user_id": table["user_id"],
                    "query_id": _words(table["words"]),
                    "timestamp": _times(table["timestamp"], origin),
                    "item_id": table["item_id"],
                    "action": pc.if_else(pc.greater(clicks, 0), "clicked", "skipped"),
                    "request_id": requests,
                    "position": pa.nulls(len(table), pa.float32()),
                }
            )


def _is_set(table: pa.Table, column: str, origin: Origin) -> pa.ChunkedArray:
    return pc.fill_null(pc.greater(convert.to_numbers(table[column], column, origin), 0), False)


def _times(column: pa.ChunkedArray, origin: Origin) -> pa.ChunkedArray:
    """Milliseconds since 1970, written as floating point numbers."""
    ms = pc.round(convert.to_numbers(column, "timestamp", origin)).cast(pa.int64())
    return convert.to_times(ms, "ms", origin)


def _words(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that stand for words, "[20, 34, 3]" -> "20 34 3"."""
    return pc.replace_substring_regex(pc.replace_substring_regex(column, r"[\[\]\s]", ""), ",", " ")


def _one_of_each_result(results: pa.Table) -> npt.NDArray[np.bool_]:
    """True for one row of every result of a request, one with a click where there is one."""
    requests, items = (
        codes_of(results[name], pa.chunked_array([listed(results[name])])).astype(np.int64)
        for name in ("request_id", "item_id")
    )
    key_S = requests * (int(items.max(initial=0)) + 1) + items
    is_skip_S = pc.equal(results["action"], "skipped").to_numpy()
    order = np.lexsort((is_skip_S, key_S))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = key_S[order[1:]] != key_S[order[:-1]]
    keep_S = np.zeros(len(order), dtype=bool)
    keep_S[order[is_first]] = True
    return keep_S


def _items(path: Path, wanted: pa.Array, spool: Path) -> pa.Table:
    """Titles are the words of captions."""

    def pieces() -> Iterator[pa.Table]:
        for table, _ in csv_tables(path, _ITEM_COLUMNS):
            columns = {
                "item_id": table["item_id"],
                "title": _titles(table["caption"], table["item_id"]),
                "author": known(table["author"], "0"),
                "kind": known(table["kind"], "UNKNOWN"),
            }
            for level in _LEVELS:
                columns[level] = known(table[level], "empty", "UNKNOWN", "unknown", "nan")
            yield pa.table(columns)

    items = spooled(spool, item_schema(_ITEM_FIELDS), pieces())
    return with_undescribed(kept(spool, items, first_of_each(items, ["item_id"])), wanted)


def _titles(captions: pa.ChunkedArray, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    words = _words(captions)
    some = rf"^((?:\d+ ){{{_TITLE_WORDS - 1}}}\d+) .*$"
    words = pc.replace_substring_regex(words, some, r"\1")
    return pc.if_else(pc.equal(words, ""), pc.binary_join_element_wise("video", ids, " "), words)


def _users(paths: Paths, ids: pa.Array) -> pa.Table:
    columns = {name: name for name in ("user_id", *_USER_COLUMNS)}
    tables = [table for table, _ in csv_tables(paths["users"], columns)]
    users = described(ids, pa.concat_tables(tables), "user_id")
    for position, name in enumerate(_USER_COLUMNS, start=1):
        users = users.set_column(position, name, known(users[name]))
    pairs = [table for table, _ in csv_tables(paths["follows"], {"user_id": "user_id"})]
    follows = counted(pa.concat_tables(pairs)["user_id"], "follows", "user_id")
    numbers = described(ids, follows, "user_id")["follows"]
    return users.append_column("follows", pc.fill_null(numbers, 0.0))
