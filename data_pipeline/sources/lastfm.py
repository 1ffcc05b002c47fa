"""Last.fm in its three published editions: who listened to what, and how often or when.

    lastfm:hetrec-2k   1,892 people's most played artists with counts, dated tags, friendships
    lastfm:360k        359,347 people's most played artists with counts; sex, age, country
    lastfm:1k          992 people's every listening of a track, 2005 to 2009, with its time

I. Cantador, P. Brusilovsky and T. Kuflik, HetRec 2011 (hetrec-2k); O. Celma, "Music Recommendation
and Discovery in the Long Tail", 2010 (the other two).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.sources import convert, lastfm_hetrec
from data_pipeline.sources.archives import fetch_archive, find_files
from data_pipeline.sources.assembly import (
    check_counts,
    first_of_each,
    listed,
    repeated,
    with_undescribed,
)
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.profiles import described, known
from data_pipeline.sources.spool import kept, spool_beside, spooled
from data_pipeline.sources.streams import csv_tables

_PLAYS = ("user_id", "artist_id", "artist", "plays")
_LISTENS = ("user_id", "timestamp", "artist_id", "artist", "track_id", "track")
_PROFILE = ("user_id", "gender", "age", "country", "registered")
_TIME = pa.timestamp("ms", "UTC")
_PLAY_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _TIME),
        ("action", pa.string()),
        ("plays", pa.float64()),
        ("title", pa.string()),
    ]
)
_LISTEN_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _TIME),
        ("action", pa.string()),
        ("title", pa.string()),
        ("artist", pa.string()),
    ]
)
_USER_FIELDS = (
    Field(name="gender", kind="category"),
    Field(name="age", kind="number"),
    Field(name="country", kind="category"),
    Field(name="registered", kind="year"),
)
# People wrote -1337 and 1002 for their age.
_AGES = (5, 110)


def _counts() -> dict[str, dict[str, int]]:
    """Counts of the readme files of the three archives."""
    return {
        "hetrec-2k": lastfm_hetrec.COUNTS,
        "360k": {"users": 359_347, "play counts": 17_559_530},
        "1k": {"users": 992, "listenings": 19_150_868},
    }


@dataclass(frozen=True, kw_only=True)
class LastFM(Source):
    """One of the editions of Last.fm."""

    name: str = "lastfm"
    licence: str = (
        "Last.fm: made available for non-commercial use; for anything else ask Last.fm "
        "(grouplens.org/datasets/hetrec-2011, zenodo.org/records/6090214)"
    )
    homepage: str = "https://zenodo.org/records/6090214"
    variants: tuple[str, ...] = ("hetrec-2k", "360k", "1k")
    variant: str = ""
    hetrec_url: str = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
    celma_url: str = "https://zenodo.org/records/6090214/files"
    md5: Mapping[str, str] = field(
        default_factory=lambda: {
            "360k": "635e6ed3fc873aa4ba33aba0ebce02b1",
            "1k": "a79a6808f54f73354789a9fb02cb1e41",
        }
    )
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=_counts)

    @property
    def url(self) -> str:
        """Of the edition's archive."""
        if self.variant == "hetrec-2k":
            return self.hetrec_url
        return f"{self.celma_url}/{_celma_folder(self.variant)}.tar.gz"

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        members = _members(self.variant)
        if self.variant == "hetrec-2k" and from_dir is not None:
            # The same tags, dated by day: copies of the dataset often have only these.
            by_day = find_files(from_dir, lastfm_hetrec.MEMBERS_BY_DAY)
            if by_day is not None:
                return by_day
        return fetch_archive(
            self.full_name,
            self.url,
            self.cache(cache_dir),
            members=members,
            md5=self.md5.get(self.variant),
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        if self.variant == "hetrec-2k":
            content = lastfm_hetrec.read(paths)
            place = paths["plays"].parent
            check_counts(self.full_name, content.counts, self.counts[self.variant], place)
            return self._write(folder, overwrite, **content.tables)
        with spool_beside(folder) as spool:
            if self.variant == "360k":
                return self._build_plays(paths, folder, spool, overwrite)
            return self._build_listens(paths, folder, spool, overwrite)

    def _build_plays(self, paths: Paths, folder: Path, spool: Path, overwrite: bool) -> Corpus:
        plays = spooled(spool, _PLAY_SCHEMA, _plays(paths["events"]))
        self._check(plays, "play counts", paths)
        is_named_N = pc.not_equal(plays["item_id"], "").to_numpy()
        named = kept(spool, plays, is_named_N)
        # Rows of a person stand by count, so the first of an artist's two spellings weighs most.
        events = kept(spool, named, first_of_each(named, ["user_id", "item_id"]))
        titled = events.filter(pc.not_equal(events["title"], "")).select(["item_id", "title"])
        titled = titled.filter(pa.array(first_of_each(titled, ["item_id"])))
        return self._write(
            folder,
            overwrite,
            items=with_undescribed(titled, listed(events["item_id"])),
            users=_users(paths["users"], listed(events["user_id"])),
            events=events.drop_columns(["title"]),
            user_fields=_USER_FIELDS,
            event_fields=(Field(name="plays", kind="number"),),
            item_noun="artist",
            dropped={
                "without_artist": int((~is_named_N).sum()),
                "duplicates": len(named) - len(events),
            },
        )

    def _build_listens(self, paths: Paths, folder: Path, spool: Path, overwrite: bool) -> Corpus:
        listens = spooled(spool, _LISTEN_SCHEMA, _listens(paths["events"]))
        self._check(listens, "listenings", paths)
        is_named_N = pc.not_equal(listens["title"], "").to_numpy()
        named = kept(spool, listens, is_named_N)
        events = kept(spool, named, ~repeated(named))
        tracks = events.select(["item_id", "title", "artist"])
        return self._write(
            folder,
            overwrite,
            items=tracks.filter(pa.array(first_of_each(tracks, ["item_id"]))),
            users=_users(paths["users"], listed(events["user_id"])),
            events=events.drop_columns(["title", "artist"]),
            item_fields=(Field(name="artist", kind="category"),),
            user_fields=_USER_FIELDS,
            item_noun="track",
            dropped={
                "without_track": int((~is_named_N).sum()),
                "duplicates": len(named) - len(events),
            },
        )

    def _check(self, rows: pa.Table, what: str, paths: Paths) -> None:
        found = {what: len(rows), "users": pc.count_distinct(rows["user_id"]).as_py()}
        check_counts(self.full_name, found, self.counts[self.variant], paths["events"])

    def _write(self, folder: Path, overwrite: bool, **content: object) -> Corpus:
        return write_corpus(
            folder,
            name=self.full_name,
            source=f"Last.fm {self.variant}, {self.url}",
            licence=self.licence,
            overwrite=overwrite,
            **content,  # type: ignore[arg-type]
        )


def _celma_folder(variant: str) -> str:
    return f"lastfm-dataset-{variant.upper()}"


def _members(variant: str) -> Mapping[str, str]:
    if variant == "hetrec-2k":
        return lastfm_hetrec.MEMBERS
    folder = _celma_folder(variant)
    events, users = {
        "360k": ("usersha1-artmbid-artname-plays.tsv", "usersha1-profile.tsv"),
        "1k": ("userid-timestamp-artid-artname-traid-traname.tsv", "userid-profile.tsv"),
    }[variant]
    return {"events": f"{folder}/{events}", "users": f"{folder}/{users}"}


def _read(path: Path, header: tuple[str, ...]) -> Iterator[tuple[pa.Table, Origin]]:
    """Tabs between values, quotes are part of names."""
    columns = {name: name for name in header}
    return csv_tables(path, columns, header=header, delimiter="\t", quote="")


def _plays(path: Path) -> Iterator[pa.Table]:
    """An artist is known by the MusicBrainz id or, without one, by name."""
    for table, origin in _read(path, _PLAYS):
        names = pc.utf8_trim_whitespace(table["artist"])
        ids = pc.utf8_trim_whitespace(table["artist_id"])
        yield pa.table(
            {
                "user_id": table["user_id"],
                "item_id": pc.if_else(pc.equal(ids, ""), names, ids),
                "timestamp": pa.nulls(len(table), _TIME),
                "action": pa.repeat("listened", len(table)),
                "plays": convert.to_numbers(table["plays"], "plays", origin),
                "title": names,
            }
        )


def _listens(path: Path) -> Iterator[pa.Table]:
    """A track is known by the MusicBrainz id or, without one, by its artist's name and its own."""
    for table, origin in _read(path, _LISTENS):
        names = pc.utf8_trim_whitespace(table["track"])
        by_name = pc.binary_join_element_wise(table["artist"], names, " - ")
        ids = table["track_id"]
        yield pa.table(
            {
                "user_id": table["user_id"],
                "item_id": pc.if_else(pc.equal(ids, ""), by_name, ids),
                "timestamp": convert.to_times(table["timestamp"], "iso", origin),
                "action": pa.repeat("listened", len(table)),
                "title": names,
                "artist": table["artist"],
            }
        )


def _users(path: Path, ids: pa.Array) -> pa.Table:
    """Profiles; a person without one (an id of 360k is a date) has none of the fields."""
    tables = []
    for table, origin in _read(path, _PROFILE):
        keep = pc.invert(pc.starts_with(table["user_id"], "#"))  # 1k names its columns
        table, origin = table.filter(keep), origin.kept(keep.to_numpy())
        age = convert.to_numbers(table["age"], "age", origin)
        is_age = pc.and_(pc.greater_equal(age, _AGES[0]), pc.less_equal(age, _AGES[1]))
        year = pc.extract_regex(table["registered"], r"(?P<year>\d{4})$")
        genders = pc.index_in(table["gender"], value_set=pa.array(["m", "f"]))
        tables.append(
            pa.table(
                {
                    "user_id": table["user_id"],
                    "gender": pa.chunked_array([["male", "female"]]).take(genders),
                    "age": pc.if_else(is_age, age, pa.scalar(None, pa.float64())),
                    "country": known(table["country"]),
                    "registered": pc.struct_field(year, "year").cast(pa.float64()),
                }
            )
        )
    return described(ids, pa.concat_tables(tables), "user_id")
