"""Steam: reviews of games with hours played, 2010 to 2018, and the libraries of Australian players.

    steam:reviews               7,793,069 English reviews with hours and whether they are of an
                                unfinished game
    steam:australian-reviews    59,305 reviews that recommend the game or do not
    steam:australian-playtime   5,153,209 games in people's libraries with hours, without times

W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; A. Pathak,
K. Gupta and J. McAuley, "Generating and Personalizing Bundle Recommendations on Steam", SIGIR 2017.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import fetch_files
from data_pipeline.sources.assembly import (
    check_counts,
    first_of_each,
    listed,
    repeated,
    used_fields,
    with_undescribed,
)
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.literals import in_tables, literal_records
from data_pipeline.sources.markup import readable, readable_or_none
from data_pipeline.sources.spool import kept, spool_beside, spooled

_TIME = pa.timestamp("ms", "UTC")
_EVENT_FIELDS = (
    Field(name="recommended", kind="category"),
    Field(name="hours", kind="number"),
    Field(name="early_access", kind="category"),
    Field(name="helpful", kind="number"),
    Field(name="review", kind="text"),
)
_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _TIME),
        ("action", pa.string()),
        ("recommended", pa.string()),
        ("hours", pa.float64()),
        ("early_access", pa.string()),
        ("helpful", pa.float64()),
        ("review", pa.string()),
        ("name", pa.string()),
    ]
)
"""`name` is the game's, where the event's file knows it."""
# No average opinion ("Very Positive"): it was formed by what is asked about.
_ITEM_FIELDS = (
    Field(name="genres", kind="categories"),
    Field(name="tags", kind="categories"),
    Field(name="features", kind="categories"),
    Field(name="developer", kind="category"),
    Field(name="publisher", kind="category"),
    Field(name="price", kind="number"),
    Field(name="year", kind="year"),
)
_YEAR = re.compile(r"\b(?:19|20)\d{2}\b")
_POSTED = re.compile(r"(\w+) (\d{1,2})(?:, (\d{4}))?\.?$")
_VOTES = re.compile(r"^([\d,]+) of [\d,]+ people")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)


def _counts() -> dict[str, dict[str, int]]:
    """The publisher's page and the SASRec paper; of the Australian files, what others counted."""
    return {
        "reviews": {"users": 2_567_538, "games": 15_474, "rows": 7_793_069},
        "australian-reviews": {"rows": 59_305},
        "australian-playtime": {"rows": 5_153_209},
    }


@dataclass(frozen=True, kw_only=True)
class Steam(Source):
    """Reviews or libraries of Steam."""

    name: str = "steam"
    licence: str = (
        "the publisher names no licence: research use with citation of the papers "
        "(cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data)"
    )
    homepage: str = "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data"
    variants: tuple[str, ...] = ("reviews", "australian-reviews", "australian-playtime")
    variant: str = ""
    new_url: str = "https://cseweb.ucsd.edu/~wckang"
    old_url: str = "https://mcauleylab.ucsd.edu/public_datasets/data/steam"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=_counts)

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        events = {
            "reviews": f"{self.new_url}/steam_reviews.json.gz",
            "australian-reviews": f"{self.old_url}/australian_user_reviews.json.gz",
            "australian-playtime": f"{self.old_url}/australian_users_items.json.gz",
        }[self.variant]
        return fetch_files(
            self.full_name,
            {"events": events, "items": f"{self.new_url}/steam_games.json.gz"},
            self.cache(cache_dir),
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        read = {
            "reviews": _reviews,
            "australian-reviews": _australian_reviews,
            "australian-playtime": _australian_playtime,
        }[self.variant]
        with spool_beside(folder) as spool:
            rows = spooled(spool, _EVENTS, in_tables(read(paths["events"]), _EVENTS))
            wanted = listed(rows["item_id"])
            found = {"users": len(listed(rows["user_id"])), "games": len(wanted), "rows": len(rows)}
            published = self.counts[self.variant]
            check_counts(self.full_name, found, published, paths["events"])
            has_times = self.variant != "australian-playtime"
            is_new_E = ~repeated(rows) if has_times else first_of_each(rows, ["user_id", "item_id"])
            events = kept(spool, rows, is_new_E)
            items = with_undescribed(_games(paths["items"], rows, wanted), wanted)
            items, item_fields = used_fields(items, _ITEM_FIELDS)
            events, event_fields = used_fields(events.drop_columns(["name"]), _EVENT_FIELDS)
            return write_corpus(
                folder,
                name=self.full_name,
                items=items,
                users=pa.table({"user_id": listed(events["user_id"])}),
                events=events,
                item_fields=item_fields,
                event_fields=event_fields,
                item_noun="game",
                source=f"Steam ({self.variant}), {self.homepage}",
                licence=self.licence,
                dropped={"duplicates": len(rows) - len(events)},
                overwrite=overwrite,
            )


def _reviews(path: Path) -> Iterator[dict[str, Any]]:
    """People are known by the names they show: a few share one, as in the papers' counts."""
    for row, record in literal_records(path):
        try:
            day = datetime.strptime(record["date"], "%Y-%m-%d").replace(tzinfo=UTC)
            yield {
                "user_id": record["username"] or "unnamed",
                "item_id": record["product_id"],
                "timestamp": day,
                "action": "reviewed",
                "hours": float(record["hours"]) if "hours" in record else None,
                "early_access": "yes" if record["early_access"] else "no",
                "review": readable_or_none(record.get("text")),
            }
        except (KeyError, TypeError, ValueError) as error:
            raise _odd(path, row, record, error) from error


def _australian_reviews(path: Path) -> Iterator[dict[str, Any]]:
    year = _last_year(path)
    for row, record in literal_records(path):
        try:
            for review in record["reviews"]:
                votes = _VOTES.match(review["helpful"])
                yield {
                    "user_id": record["user_id"],
                    "item_id": review["item_id"],
                    "timestamp": _posted(review["posted"], year),
                    "action": "reviewed",
                    "recommended": "yes" if review["recommend"] else "no",
                    "helpful": float(votes[1].replace(",", "")) if votes else None,
                    "review": readable_or_none(review["review"]),
                }
        except (KeyError, TypeError, ValueError) as error:
            raise _odd(path, row, record, error) from error


def _last_year(path: Path) -> int:
    """The year that is left out: Steam writes "Posted July 3." of the year that it is."""
    years = [
        int(found[3])
        for _, record in literal_records(path)
        for review in record.get("reviews", ())
        if (found := _POSTED.search(review.get("posted", ""))) and found[3]
    ]
    return max(years, default=datetime.now(UTC).year - 1) + 1


def _posted(text: str, year: int) -> datetime:
    """The day of "Posted November 5, 2011."."""
    found = _POSTED.search(text)
    if found is None or found[1] not in _MONTHS:
        raise ValueError(f"no day in '{text}'")
    return datetime(int(found[3] or year), _MONTHS.index(found[1]) + 1, int(found[2]), tzinfo=UTC)


def _australian_playtime(path: Path) -> Iterator[dict[str, Any]]:
    """Games that people have; times played are minutes up to the day of the crawl."""
    for row, record in literal_records(path):
        try:
            for game in record["items"]:
                minutes = game["playtime_forever"]
                yield {
                    "user_id": record["user_id"],
                    "item_id": game["item_id"],
                    "action": "played" if minutes > 0 else "owned",
                    "hours": minutes / 60,
                    "name": readable_or_none(game["item_name"]),
                }
        except (KeyError, TypeError, ValueError) as error:
            raise _odd(path, row, record, error) from error


def _odd(path: Path, row: int, record: object, error: Exception) -> DataError:
    return DataError(
        f"the record is not the expected one: {type(error).__name__}: {error}",
        file=path,
        row=row,
        value=record,
        remedy="is it this dataset's file? Otherwise remove it and fetch again",
    )


def _games(path: Path, events: pa.Table, wanted: pa.Array) -> pa.Table:
    """Games of the store, then those that only events name: they were sold no more."""
    ids = set(wanted.to_pylist())
    games: dict[str, dict[str, Any]] = {}
    for _, record in literal_records(path):
        item_id = str(record.get("id"))
        title = readable_or_none(record.get("title") or record.get("app_name"))
        if item_id in ids and item_id not in games:
            games[item_id] = {"item_id": item_id, "title": title, **_described(record)}
    named = events.select(["item_id", "name"])
    named = named.filter(pa.array(first_of_each(named, ["item_id"])))
    for item_id, name in zip(*named.to_pydict().values(), strict=True):
        game = games.setdefault(item_id, {"item_id": item_id, "title": None})
        game["title"] = game["title"] or name or item_id
    return pa.Table.from_pylist(list(games.values()), schema=item_schema(_ITEM_FIELDS))


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    price = record.get("price")  # a number or "Free To Play", "Free Demo", "Third-party", ...
    if isinstance(price, str):
        price = 0.0 if price.lower().startswith(("free", "play")) else None
    year = _YEAR.search(str(record.get("release_date") or ""))
    return {
        "genres": _names(record.get("genres")),
        "tags": _names(record.get("tags")),
        "features": _names(record.get("specs")),
        "developer": readable_or_none(record.get("developer")),
        "publisher": readable_or_none(record.get("publisher")),
        "price": price,
        "year": None if year is None else float(year[0]),
    }


def _names(values: object) -> list[str] | None:
    return [readable(value) for value in values] if isinstance(values, list) else None
