"""MIND: what a million readers of Microsoft News were shown, and what they clicked, in 2019.

    mind:small   50,000 readers in each of its two files
    mind:large   all readers; its test week has no labels and is left out

An impression is a request: its articles are events `clicked` or `skipped` with one `request_id`.
They were shuffled before publication, so there are no positions; impressions without a click were
left out by the publisher.

What a reader had clicked in the four weeks before is known in its order, without times. It is the
same in all of a reader's impressions, so all of it is older than the log: such clicks are events
`clicked` without a request, one second apart, the last one a second before the log begins. That is
the latest moment they can have happened, so nothing is known earlier than it was; their ages in a
prompt are lower bounds. A click task asks about events with a request only.

The labels of the published test week are secret, so results are reported on the validation day:
`--split published` makes it TEST, from `DEV_STARTS` on, and takes VALIDATION from the last
impressions before it. Its MRR and nDCG within an impression are those of `brewhouse eval RUN
--whole-impressions`, with as many `--max-targets` as one can wait for.

F. Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, Origin, PublishedSplit, write_corpus
from data_pipeline.corpus_checks import first
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import (
    files_from,
    find_files,
    from_remedy,
    standing,
    unpack,
)
from data_pipeline.sources.assembly import check_counts, first_of_each, listed, repeated
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.fetch import download
from data_pipeline.sources.markup import readable_column
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import csv_tables

DEV_STARTS = 1_573_776_000_000
"""15 November 2019 in milliseconds since 1970: the published training impressions are before."""

# Rows of behaviors.tsv and news.tsv, as counted in the published files. (The paper's figures of
# impressions are smaller: it leaves out readers without earlier clicks.)
PUBLISHED = {
    "small": {
        "train impressions": 156_965,
        "dev impressions": 73_152,
        "train news": 51_282,
        "dev news": 42_416,
    },
    "large": {
        "train impressions": 2_232_748,
        "dev impressions": 376_471,
        "train news": 101_527,
        "dev news": 72_023,
    },
}
SPLITS = ("train", "dev")
_FIELDS = (
    Field(name="category", kind="category"),
    Field(name="subcategory", kind="category"),
    Field(name="entities", kind="categories"),
    Field(name="abstract", kind="text"),
)
_NEWS = (
    "item_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
_BEHAVIORS = ("request_id", "user_id", "time", "history", "impressions")
_BEHAVIORS_FILE = "behaviors.tsv"
_UTC_MS = pa.timestamp("ms", "UTC")
_EVENT_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _UTC_MS),
        ("action", pa.string()),
        ("request_id", pa.string()),
    ]
)
_WHOLE = "is it the file of MIND? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class Mind(Source):
    """News impressions with clicks."""

    name: str = "mind"
    licence: str = (
        "Microsoft Research License Terms: non-commercial research only, no redistribution "
        "(msnews.github.io; go.microsoft.com/fwlink/?LinkID=206977)"
    )
    homepage: str = "https://msnews.github.io"
    variants: tuple[str, ...] = tuple(PUBLISHED)
    variant: str = ""
    url: str = "https://huggingface.co/datasets/Recommenders/MIND/resolve/main"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: PUBLISHED)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        names = {split: f"MIND{self.variant}_{split}" for split in SPLITS}
        if from_dir is not None:
            for folders in (
                names,
                {"train": "train", "dev": "dev"},
                {"train": "train", "dev": "valid"},
            ):
                members = {
                    role: member
                    for split in SPLITS
                    for role, member in _members(split, f"{folders[split]}/").items()
                }
                if (found := find_files(from_dir, members)) is not None:
                    return found
        paths: dict[str, Path] = {}
        for split, name in names.items():
            if from_dir is None:
                paths |= self._downloaded(split, name, self.cache(cache_dir), progress)
            else:
                paths |= self._packed_in(from_dir, split, name, self.cache(cache_dir))
        return paths

    def _downloaded(self, split: str, name: str, cache: Path, progress: Progress | None) -> Paths:
        for inside in ("", f"{name}/"):
            if (known := standing(cache / name, _members(split, inside))) is not None:
                return known
        archive = download(
            f"{self.url}/{name}.zip",
            cache / f"{name}.zip",
            progress=progress,
            remedy=from_remedy(f"{name}.zip", _members(split, "")),
        )
        try:
            return unpack(archive, _members(split, _folder_in(archive)), cache / name)
        finally:
            archive.unlink()  # once unpacked it is not needed; if it is not the one, fetch again

    def _packed_in(self, from_dir: Path, split: str, name: str, cache: Path) -> Paths:
        packed = [*from_dir.glob(f"{name}.zip"), *from_dir.glob(f"*/{name}.zip")]
        if not packed:
            raise DataError(
                f"there is neither a folder {name} with its files nor {name}.zip",
                file=from_dir,
                remedy=from_remedy(f"{name}.zip", _members(split, f"{name}/")),
            )
        return files_from(
            self.full_name,
            from_dir,
            cache,
            members=_members(split, _folder_in(packed[0])),
            archive=f"{name}.zip",
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        with spool_beside(folder) as spool:
            log = _Log()
            shown = spooled(spool, _EVENT_SCHEMA, log.impressions(paths))
            news = {split: _news(paths[f"{split}_news"]) for split in SPLITS}
            found = {f"{split} news": len(table) for split, table in news.items()}
            found |= {f"{split} impressions": n for split, n in log.n_impressions.items()}
            published = self.counts.get(self.variant, {})
            check_counts(self.full_name, found, published, paths["train_events"].parent)
            items = pa.concat_tables(news.values())
            # Within one second a reader may have been shown an article twice.
            keep_E = ~repeated(shown)
            shown = kept(spool, shown, keep_E)
            events = pa.concat_tables([spooled(spool, _EVENT_SCHEMA, log.earlier()), shown])
            n_repeated = int((~keep_E).sum())
            return write_corpus(
                folder,
                name=self.full_name,
                items=items.filter(pa.array(first_of_each(items, ["item_id"]))),
                users=pa.table({"user_id": listed(shown["user_id"])}),
                events=events,
                item_fields=_FIELDS,
                item_noun="article",
                source=f"MIND ({self.variant}), {self.homepage}",
                licence=self.licence,
                published_split=PublishedSplit(validation_end=DEV_STARTS),
                origins={"items": Origin(files=(str(paths["train_news"]),))},
                dropped={"duplicates": n_repeated} if n_repeated else {},
                overwrite=overwrite,
            )


def _members(split: str, folder: str) -> dict[str, str]:
    files = {"events": _BEHAVIORS_FILE, "news": "news.tsv"}
    return {f"{split}_{role}": f"{folder}{file}" for role, file in files.items()}


def _folder_in(archive: Path) -> str:
    """The folder in an archive that its files are in: copies differ in whether there is one."""
    try:
        with zipfile.ZipFile(archive) as packed:
            names = packed.namelist()
    except (zipfile.BadZipFile, OSError):
        return ""  # who unpacks it says what is wrong
    found = [name for name in names if PurePosixPath(name).name == _BEHAVIORS_FILE]
    return found[0].removesuffix(_BEHAVIORS_FILE) if found else ""


class _Log:
    """Reads the impressions of both files, and remembers what readers had clicked before."""

    def __init__(self) -> None:
        self.n_impressions = dict.fromkeys(SPLITS, 0)
        self._history: dict[str, str] = {}
        self._begins: int | None = None

    def impressions(self, paths: Paths) -> Iterator[pa.Table]:
        """Events of all impressions, block by block."""
        columns = {name: name for name in _BEHAVIORS}
        for split in SPLITS:
            path = paths[f"{split}_events"]
            for table, origin in csv_tables(
                path, columns, header=_BEHAVIORS, delimiter="\t", quote=""
            ):
                times = _times(table["time"], origin)
                self.n_impressions[split] += len(table)
                earliest = pc.min(times.cast(pa.int64())).as_py()
                self._begins = min(filter(None, (self._begins, earliest)))
                self._remember(table, origin)
                yield _exploded(table, times, split, origin)

    def _remember(self, table: pa.Table, origin: Origin) -> None:
        users, histories = table["user_id"].to_pylist(), table["history"].to_pylist()
        for row, (user, history) in enumerate(zip(users, histories, strict=True)):
            if self._history.setdefault(user, history) != history:
                raise origin.error(
                    "the reader's history is another than in an earlier impression: when its "
                    "clicks happened is then unknown, and they cannot be put before the log",
                    row=row,
                    column="history",
                    value=history,
                    remedy=_WHOLE,
                )

    def earlier(self) -> Iterator[pa.Table]:
        """Events of the clicks before the log, the latest a second before it begins."""
        users = list(self._history)
        for start in range(0, len(users), 50_000):
            some = users[start : start + 50_000]
            clicks = [self._history[user].split() for user in some]
            lengths_U = np.array([len(row) for row in clicks], np.int64)
            before_E = np.concatenate([np.arange(n, 0, -1) for n in lengths_U])
            n_events = len(before_E)
            assert self._begins is not None, "there was an impression"
            yield pa.table(
                {
                    "user_id": pa.array(some, pa.string()).take(
                        pa.array(np.repeat(np.arange(len(some)), lengths_U))
                    ),
                    "item_id": pa.array([item for row in clicks for item in row], pa.string()),
                    "timestamp": pa.array(self._begins - 1000 * before_E).cast(_UTC_MS),
                    "action": pa.repeat("clicked", n_events),
                    "request_id": pa.nulls(n_events, pa.string()),
                }
            )


def _times(column: pa.ChunkedArray, origin: Origin) -> pa.ChunkedArray:
    """Times such as "11/13/2019 8:36:57 AM"; they have no zone and are taken as UTC."""
    times = pc.strptime(column, format="%m/%d/%Y %I:%M:%S %p", unit="s", error_is_null=True)
    row = first(pc.is_null(times))
    if row is not None:
        raise origin.error(
            "the time is not month/day/year hour:minute:second AM or PM",
            row=row,
            column="time",
            value=column[row].as_py(),
            remedy=_WHOLE,
        )
    return times.cast(pa.timestamp("ms")).cast(_UTC_MS)


def _exploded(table: pa.Table, times: pa.ChunkedArray, split: str, origin: Origin) -> pa.Table:
    """One event per article of each impression: "N1-1 N2-0" -> N1 clicked, N2 skipped."""
    lists = pc.ascii_split_whitespace(pc.utf8_trim_whitespace(table["impressions"]))
    lists = lists.combine_chunks()
    tokens, parent = pc.list_flatten(lists), pc.list_parent_indices(lists)
    wrong = first(pc.invert(pc.match_substring_regex(tokens, r"^[^ -]+-[01]$")))
    if wrong is not None:
        raise origin.error(
            "the impression is not a list of article-1 (clicked) and article-0 (not clicked)",
            row=parent[wrong].as_py(),
            column="impressions",
            value=tokens[wrong].as_py(),
            remedy="the test files have no labels and cannot be used; " + _WHOLE,
        )
    requests = pc.binary_join_element_wise(f"{split}-", table["request_id"], "")
    is_click = pc.ends_with(tokens, "1")
    return pa.table(
        {
            "user_id": table["user_id"].take(parent),
            "item_id": pc.utf8_slice_codeunits(tokens, 0, -2),
            "timestamp": times.take(parent),
            "action": pc.if_else(is_click, "clicked", "skipped"),
            "request_id": requests.take(parent),
        }
    )


def _news(path: Path) -> pa.Table:
    """Articles: titles, abstracts, and what in the world they are about."""
    columns = {name: name for name in _NEWS if name != "url"}
    pieces = []
    for table, origin in csv_tables(path, columns, header=_NEWS, delimiter="\t", quote=""):
        entities = [
            _labels(texts, row, origin)
            for row, texts in enumerate(
                zip(
                    table["title_entities"].to_pylist(),
                    table["abstract_entities"].to_pylist(),
                    strict=True,
                )
            )
        ]
        pieces.append(
            pa.table(
                {
                    "item_id": table["item_id"],
                    "title": readable_column(table["title"]),
                    "category": table["category"],
                    "subcategory": table["subcategory"],
                    "entities": pa.array(entities, pa.list_(pa.string())),
                    "abstract": readable_column(table["abstract"]),
                }
            )
        )
    return pa.concat_tables(pieces)


def _labels(texts: tuple[str, str], row: int, origin: Origin) -> list[str] | None:
    """The names of an article's entities, those of its title first."""
    names: list[str] = []
    for column, text in zip(("title_entities", "abstract_entities"), texts, strict=True):
        try:
            names += [entity["Label"] for entity in json.loads(text or "[]")]
        except (ValueError, TypeError, KeyError) as error:
            raise origin.error(
                f"the entities are not a list of records with a label: {error}",
                row=row,
                column=column,
                value=text,
                remedy=_WHOLE,
            ) from error
    return list(dict.fromkeys(names)) or None
