"""MovieLens-1M: 6,040 people's 1,000,209 ratings of films, 2000 to 2003, with who the people are.

Its files have no header, "::" between values, and Latin-1 text. Ages are bands: a category, not a
number. Zip codes are not kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_pipeline.corpus import Field, Origin
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import fetch_archive, open_text
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.movielens import (
    PUBLISHER,
    RATED_SCHEMA,
    STRICT_LICENCE,
    MovieLens,
    Tables,
    film_table,
)
from data_pipeline.sources.spool import spooled

AGES = {
    "1": "under 18",
    "18": "18 to 24",
    "25": "25 to 34",
    "35": "35 to 44",
    "45": "45 to 49",
    "50": "50 to 55",
    "56": "56 or older",
}
OCCUPATIONS = (
    "other",
    "academic or educator",
    "artist",
    "clerical or admin",
    "college or graduate student",
    "customer service",
    "doctor or health care",
    "executive or manager",
    "farmer",
    "homemaker",
    "school student",
    "lawyer",
    "programmer",
    "retired",
    "sales or marketing",
    "scientist",
    "self-employed",
    "technician or engineer",
    "tradesperson or craftsperson",
    "unemployed",
    "writer",
)
"""By the publisher's code."""
_GENDERS = {"M": "male", "F": "female"}
_RATINGS = frozenset("12345")
_ROWS = 1 << 16
_REMEDY = "is it the file of ml-1m.zip? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class MovieLens1M(MovieLens):
    """The MovieLens-1M dataset."""

    name: str = "movielens-1m"
    title: str = "MovieLens-1M"
    licence: str = f"{STRICT_LICENCE} (files.grouplens.org/datasets/movielens/ml-1m-README.txt)"
    homepage: str = "https://grouplens.org/datasets/movielens/1m/"
    url: str = f"{PUBLISHER}/ml-1m.zip"
    md5: str = "c4d9eecfca2ab87c1945afe126590906"
    # Ratings and users from the README; films as counted in movies.dat, 177 of them never rated.
    counts: Mapping[str, int] = field(
        default_factory=lambda: {
            "users": 6_040,
            "films": 3_883,
            "rated films": 3_706,
            "ratings": 1_000_209,
        }
    )

    def fetch_files(self, cache: Path, from_dir: Path | None, progress: Progress | None) -> Paths:
        return fetch_archive(
            self.name,
            self.url,
            cache,
            members={
                "events": "ml-1m/ratings.dat",
                "items": "ml-1m/movies.dat",
                "users": "ml-1m/users.dat",
            },
            md5=self.md5,
            from_dir=from_dir,
            progress=progress,
        )

    def read(self, paths: Paths, spool: Path) -> Tables:
        films = ((row[0], row[1], row[2].split("|")) for _, row in _rows(paths["items"], 3))
        return Tables(
            items=film_table(films),
            users=_users(paths["users"]),
            events=spooled(spool, RATED_SCHEMA, _events(paths["events"])),
            user_fields=(
                Field(name="age", kind="category"),
                Field(name="gender", kind="category"),
                Field(name="occupation", kind="category"),
            ),
            origins={
                role: Origin(files=(str(paths[role]),)) for role in ("events", "items", "users")
            },
        )


def _rows(path: Path, width: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with their numbers, from 1."""
    with open_text(path, "latin-1") as file:
        for number, line in enumerate(file, start=1):
            row = line.rstrip("\r\n").split("::")
            if len(row) != width:
                raise _odd_row(
                    f"the row has {len(row)} values, expected {width}", path, number, row
                )
            yield number, row


def _users(path: Path) -> pa.Table:
    """users.dat: id, M or F, lowest age of the band, code of the occupation, zip code."""
    people = []
    for number, (user_id, gender, age, code, _) in _rows(path, 5):
        is_known = code.isdigit() and int(code) < len(OCCUPATIONS)
        if gender not in _GENDERS or age not in AGES or not is_known:
            raise _odd_row(
                "the row is not 'id, M or F, age band, occupation 0 to 20, zip code'",
                path,
                number,
                [user_id, gender, age, code],
            )
        people.append((user_id, AGES[age], _GENDERS[gender], OCCUPATIONS[int(code)]))
    names = ("user_id", "age", "gender", "occupation")
    columns = zip(*people, strict=True) if people else [()] * len(names)
    return pa.table(
        {name: pa.array(c, pa.string()) for name, c in zip(names, columns, strict=True)}
    )


def _events(path: Path) -> Iterator[pa.Table]:
    """ratings.dat: user, film, rating 1 to 5, seconds since 1970."""
    rows: list[tuple[str, str, int, str, float]] = []
    for number, (user_id, item_id, rating, seconds) in _rows(path, 4):
        if rating not in _RATINGS or not seconds.isdigit():
            raise _odd_row(
                "the row is not 'user, film, rating from 1 to 5, seconds since 1970'",
                path,
                number,
                [user_id, item_id, rating, seconds],
            )
        rows.append((user_id, item_id, int(seconds) * 1000, "rated", float(rating)))
        if len(rows) == _ROWS:
            yield _rated(rows)
            rows = []
    yield _rated(rows)


def _rated(rows: list[tuple[str, str, int, str, float]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(RATED_SCHEMA)
    arrays = [pa.array(c, type_) for c, type_ in zip(columns, RATED_SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=RATED_SCHEMA)


def _odd_row(message: str, path: Path, number: int, row: list[str]) -> DataError:
    return DataError(message, file=path, row=number, value="::".join(row), remedy=_REMEDY)
