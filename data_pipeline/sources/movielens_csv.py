"""MovieLens as CSV: latest-small (2018), 25M (2019, with the tag genome) and 32M (2023).

All have the files movies.csv, ratings.csv and tags.csv; ratings go from 0.5 to 5 in halves. Ids at
IMDb and TMDB (links.csv) are left out: they are no words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Origin
from data_pipeline.corpus_checks import codes_of, first, plain_text
from data_pipeline.errors import DataError
from data_pipeline.sources import convert
from data_pipeline.sources.archives import fetch_archive
from data_pipeline.sources.assembly import listed
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.movielens import (
    PUBLISHER,
    RATED_SCHEMA,
    SHARING_LICENCE,
    STRICT_LICENCE,
    MovieLens,
    Tables,
    film_table,
)
from data_pipeline.sources.spool import spooled
from data_pipeline.sources.streams import csv_tables

_TAG_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("tag", pa.string()),
        ("user_id", pa.string()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("weight", pa.float32()),
    ]
)
_RATINGS = pa.array([0.5 * half for half in range(1, 11)])
_REMEDY = "is it the file of this dataset? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class MovieLensCsv(MovieLens):
    """A MovieLens dataset in CSV files."""

    folder: str
    """The folder in the archive, which is the archive's name too."""
    md5: str | None = None
    has_genome: bool = False

    def fetch_files(self, cache: Path, from_dir: Path | None, progress: Progress | None) -> Paths:
        names = {"events": "ratings", "items": "movies", "tags": "tags"}
        if self.has_genome:
            names |= {"genome": "genome-scores", "genome_tags": "genome-tags"}
        return fetch_archive(
            self.name,
            f"{PUBLISHER}/{self.folder}.zip",
            cache,
            members={role: f"{self.folder}/{name}.csv" for role, name in names.items()},
            md5=self.md5,
            from_dir=from_dir,
            progress=progress,
        )

    def read(self, paths: Paths, spool: Path) -> Tables:
        events = spooled(spool, RATED_SCHEMA, _events(paths["events"]))
        tags = spooled(spool, _TAG_SCHEMA, self._tags(paths))
        people = [listed(events["user_id"]), listed(tags["user_id"].drop_null())]
        return Tables(
            items=film_table(_films(paths["items"])),
            users=pa.table({"user_id": listed(pa.chunked_array(people))}),
            events=events,
            tags=tags,
            origins={
                "events": Origin(files=(str(paths["events"]),), columns=_EVENT_COLUMNS),
                "items": Origin(files=(str(paths["items"]),), columns=_FILM_COLUMNS),
            },
        )

    def _tags(self, paths: Paths) -> Iterator[pa.Table]:
        yield from _user_tags(paths["tags"])
        if self.has_genome:
            yield from _genome(paths["genome"], paths["genome_tags"])


@dataclass(frozen=True, kw_only=True)
class MovieLensLatestSmall(MovieLensCsv):
    """Of September 2018; the publisher may replace it, so its counts decide, not a checksum."""

    name: str = "movielens-latest-small"
    title: str = "MovieLens-latest-small of 2018"
    licence: str = (
        f"{SHARING_LICENCE} (files.grouplens.org/datasets/movielens/ml-latest-small-README.html)"
    )
    homepage: str = "https://grouplens.org/datasets/movielens/latest/"
    folder: str = "ml-latest-small"
    # From its README.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {
            "users": 610,
            "films": 9_742,
            "ratings": 100_836,
            "tags": 3_683,
        }
    )


@dataclass(frozen=True, kw_only=True)
class MovieLens25M(MovieLensCsv):
    """Of November 2019, with 1,128 computed tags for each of 13,816 films."""

    name: str = "movielens-25m"
    title: str = "MovieLens-25M"
    licence: str = f"{STRICT_LICENCE} (files.grouplens.org/datasets/movielens/ml-25m-README.html)"
    homepage: str = "https://grouplens.org/datasets/movielens/25m/"
    folder: str = "ml-25m"
    md5: str | None = "6b51fb2759a8657d3bfcbfc42b592ada"
    has_genome: bool = True
    # From its README.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {
            "users": 162_541,
            "films": 62_423,
            "ratings": 25_000_095,
            "tags": 1_093_360,
            "genome scores": 15_584_448,
        }
    )


@dataclass(frozen=True, kw_only=True)
class MovieLens32M(MovieLensCsv):
    """Of October 2023."""

    name: str = "movielens-32m"
    title: str = "MovieLens-32M"
    licence: str = f"{SHARING_LICENCE} (files.grouplens.org/datasets/movielens/ml-32m-README.html)"
    homepage: str = "https://grouplens.org/datasets/movielens/32m/"
    folder: str = "ml-32m"
    md5: str | None = "d472be332d4daa821edc399621853b57"
    # From its README.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {
            "users": 200_948,
            "films": 87_585,
            "ratings": 32_000_204,
            "tags": 2_000_072,
        }
    )


_EVENT_COLUMNS = {
    "user_id": "userId",
    "item_id": "movieId",
    "value": "rating",
    "timestamp": "timestamp",
}
_FILM_COLUMNS = {"item_id": "movieId", "title": "title", "genres": "genres"}
_TAG_COLUMNS = {"user_id": "userId", "item_id": "movieId", "tag": "tag", "timestamp": "timestamp"}
_SCORE_COLUMNS = {"item_id": "movieId", "tag_id": "tagId", "weight": "relevance"}


def _films(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for table, _ in csv_tables(path, _FILM_COLUMNS):
        for film in table.to_pylist():
            yield film["item_id"], film["title"], film["genres"].split("|")


def _events(path: Path) -> Iterator[pa.Table]:
    for table, origin in csv_tables(path, _EVENT_COLUMNS):
        values = convert.to_numbers(table["value"], "value", origin)
        row = first(pc.invert(pc.is_in(values, value_set=_RATINGS)))
        if row is not None:
            raise origin.error(
                "the rating is none from 0.5 to 5 in halves",
                row=row,
                column="value",
                value=table["value"][row].as_py(),
                remedy=_REMEDY,
            )
        yield pa.table(
            {
                "user_id": table["user_id"],
                "item_id": table["item_id"],
                "timestamp": convert.to_times(table["timestamp"], "s", origin),
                "action": pa.repeat("rated", len(table)),
                "value": values,
            }
        )


def _user_tags(path: Path) -> Iterator[pa.Table]:
    for table, origin in csv_tables(path, _TAG_COLUMNS):
        yield pa.table(
            {
                "item_id": table["item_id"],
                "tag": plain_text(table["tag"]),
                "user_id": table["user_id"],
                "timestamp": convert.to_times(table["timestamp"], "s", origin),
                "weight": pa.nulls(len(table), pa.float32()),
            }
        )


def _genome(scores: Path, names: Path) -> Iterator[pa.Table]:
    """How much each tag says about each film, as the publisher's model has it: 0 to 1."""
    tags = pa.concat_tables(
        table for table, _ in csv_tables(names, {"tag_id": "tagId", "tag": "tag"})
    )
    tag_names = plain_text(tags["tag"]).combine_chunks()
    for table, origin in csv_tables(scores, _SCORE_COLUMNS):
        weight = convert.to_numbers(table["weight"], "weight", origin)
        code_N = codes_of(table["tag_id"], tags["tag_id"])
        is_odd = pc.or_(pc.less(weight, 0), pc.greater(weight, 1)).combine_chunks()
        row = first(pc.or_(pc.fill_null(is_odd, True), pa.array(code_N < 0)))
        if row is not None:
            raise DataError(
                "the row is not 'film, tag that genome-tags.csv lists, relevance from 0 to 1'",
                file=scores,
                row=origin.locate(row)[1],
                value=", ".join(
                    str(value) for value in table.slice(row, 1).to_pylist()[0].values()
                ),
                remedy=_REMEDY,
            )
        yield pa.table(
            {
                "item_id": table["item_id"],
                "tag": tag_names.take(pa.array(code_N)),
                "user_id": pa.nulls(len(table), pa.string()),
                "timestamp": pa.nulls(len(table), _TAG_SCHEMA.field("timestamp").type),
                "weight": weight,
            }
        )
