"""The HetRec 2011 edition of Last.fm: plays without times, tags with, and friendships.

A tag is a text that people look for artists by: each that is on `QUERY_ARTISTS` artists or more is
also a query, and an artist's grade is the number of people who gave it the tag.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.corpus import Field
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import open_text
from data_pipeline.sources.base import Paths

_FILES = {
    "artists": "artists.dat",
    "tags": "tags.dat",
    "plays": "user_artists.dat",
    "friends": "user_friends.dat",
}
MEMBERS: Mapping[str, str] = {**_FILES, "taggings": "user_taggedartists-timestamps.dat"}
MEMBERS_BY_DAY: Mapping[str, str] = {**_FILES, "taggings": "user_taggedartists.dat"}

# The archive's readme.
COUNTS: dict[str, int] = {
    "users": 1_892,
    "artists": 17_632,
    "friendships": 12_717,
    "play counts": 92_834,
    "tags": 11_946,
    "tag assignments": 186_479,
}
QUERY_ARTISTS = 5

_MS_PER_DAY = 86_400_000
# Times of the file are midnights in Madrid, one or two hours before those of its days in UTC.
_MADRID_MS = 2 * 3_600_000
# Last.fm had tags from 2005 on: five of the file's days (in 1956, 1957, 1979) are mistakes.
_FIRST_DAY_MS = int(datetime(2005, 1, 1, tzinfo=UTC).timestamp()) * 1000
_FROM = "put the unpacked hetrec2011-lastfm-2k in a folder and use --from FOLDER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What the files hold."""

    tables: dict[str, Any]
    """What `write_corpus` wants."""
    counts: dict[str, int]
    """Of rows, before any was left out."""


def read(paths: Paths) -> Content:
    """All files as tables.

    Raises:
        DataError: a file is not what its dataset's is.
    """
    artists = _rows(paths["artists"], 4)
    plays = _rows(paths["plays"], 3)
    friends = {tuple(sorted(row)) for row in _rows(paths["friends"], 2)}
    tags = {row[0]: " ".join(row[1].split()) for row in _rows(paths["tags"], 2, "latin-1")}
    taggings = _taggings(paths["taggings"])
    items = {row[0] for row in artists}
    # 390 tagged artists are not among the artists.
    given = [row for row in taggings if row[1] in items]
    users = list(dict.fromkeys(row[0] for row in plays))
    friend_counts = Counter(user for pair in friends for user in pair)
    tables = {
        "items": pa.table(
            {
                "item_id": [row[0] for row in artists],
                "title": [" ".join(row[1].split()) for row in artists],
            }
        ),
        "users": pa.table(
            {
                "user_id": users,
                "friends": pa.array([friend_counts[user] for user in users], pa.float64()),
            }
        ),
        "user_fields": (Field(name="friends", kind="number"),),
        "events": _events(plays, paths["plays"]),
        "event_fields": (Field(name="plays", kind="number"),),
        "item_noun": "artist",
        "tags": _tag_table(given, tags, paths["taggings"]),
        **_searchable(given, tags),
        "dropped": {"tags_of_unknown_artists": len(taggings) - len(given)},
    }
    counts = {
        "users": len(users),
        "artists": len(artists),
        "friendships": len(friends),
        "play counts": len(plays),
        "tags": len(tags),
        "tag assignments": len(taggings),
    }
    return Content(tables=tables, counts=counts)


def _rows(path: Path, width: int, encoding: str = "utf-8") -> list[list[str]]:
    """The rows of a file; its first line names the columns, or not (some copies lost it)."""
    with open_text(path, encoding) as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = rows[1:] if rows and not rows[0][0].isdigit() else rows
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != width or not row[0].isdigit():
            raise DataError(
                f"the row is not {width} values of which the first is a number",
                file=path,
                row=number,
                value="\t".join(row),
                remedy=_FROM,
            )
    return rows


def _taggings(path: Path) -> list[tuple[str, str, str, int | None]]:
    """User, artist, tag and day in milliseconds since 1970, the same from either file."""
    by_day = path.name.startswith(MEMBERS_BY_DAY["taggings"])
    found = []
    for number, row in enumerate(_rows(path, 6 if by_day else 4), start=1):
        try:
            if by_day:
                day, month, year = map(int, row[3:])
                ms = int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000
            else:
                ms = (int(row[3]) + _MADRID_MS) // _MS_PER_DAY * _MS_PER_DAY
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"the row has no day: {error}",
                file=path,
                row=number,
                value="\t".join(row),
                remedy=_FROM,
            ) from error
        found.append((row[0], row[1], row[2], ms if ms >= _FIRST_DAY_MS else None))
    return found


def _events(plays: list[list[str]], path: Path) -> pa.Table:
    for number, row in enumerate(plays, start=1):
        if not row[2].isdigit():
            raise DataError(
                "the weight is not a number of plays",
                file=path,
                row=number,
                column="weight",
                value=row[2],
                remedy=_FROM,
            )
    return pa.table(
        {
            "user_id": [row[0] for row in plays],
            "item_id": [row[1] for row in plays],
            "timestamp": pa.nulls(len(plays), pa.timestamp("ms", "UTC")),
            "action": ["listened"] * len(plays),
            "plays": pa.array([int(row[2]) for row in plays], pa.float64()),
        }
    )


def _tag_table(
    given: Iterable[tuple[str, str, str, int | None]], tags: Mapping[str, str], path: Path
) -> pa.Table:
    rows: dict[tuple[str, str, str, int | None], None] = {}
    for number, (user, artist, tag, ms) in enumerate(given, start=1):
        if tag not in tags:
            raise DataError(
                "the tag is not in tags.dat", file=path, row=number, value=tag, remedy=_FROM
            )
        # A few texts have two tag ids.
        rows.setdefault((artist, tags[tag], user, ms))
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "item_id": columns[0],
            "tag": columns[1],
            "user_id": columns[2],
            "timestamp": pa.array(columns[3], pa.int64()).cast(pa.timestamp("ms", "UTC")),
        }
    )


def _searchable(
    given: Iterable[tuple[str, str, str, int | None]], tags: Mapping[str, str]
) -> dict[str, pa.Table]:
    """Queries and judgements, in the order of tags.dat."""
    people: dict[str, dict[str, set[str]]] = {text: {} for text in tags.values()}
    for user, artist, tag, _ in given:
        people[tags[tag]].setdefault(artist, set()).add(user)
    ids = {text: tag for tag, text in reversed(list(tags.items()))}
    queries = [text for text, artists in people.items() if len(artists) >= QUERY_ARTISTS]
    judged = [
        (ids[text], artist, float(len(users)))
        for text in queries
        for artist, users in people[text].items()
    ]
    return {
        "queries": pa.table({"query_id": [ids[text] for text in queries], "text": queries}),
        "judgements": pa.table(
            {
                "query_id": pa.array([row[0] for row in judged], pa.string()),
                "item_id": pa.array([row[1] for row in judged], pa.string()),
                "grade": pa.array([row[2] for row in judged], pa.float32()),
            }
        ),
    }
