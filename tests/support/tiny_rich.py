"""The tiny corpus with everything that a corpus can have: all event fields, all optional tables."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tiny_corpus import GENRES, HOUR, tiny_tables

from data_pipeline.corpus import Corpus, Field, write_corpus

EVENT_FIELDS = (
    Field(name="review", kind="text"),
    Field(name="recommended", kind="category"),
    Field(name="finished", kind="category"),
    Field(name="spoiler", kind="category"),
    Field(name="early_access", kind="category"),
    Field(name="hours", kind="number"),
    Field(name="plays", kind="number"),
    Field(name="helpful", kind="number"),
    Field(name="watch_ratio", kind="number"),
    Field(name="position", kind="number"),
    Field(name="propensity", kind="number"),
)
LABELS = {1.0: "exact", 0.1: "substitute", 0.01: "complement", 0.0: "irrelevant"}
SHOWN = 4
_TIME = pa.timestamp("ms", "UTC")
_WORDS = {
    "Action": "chases",
    "Comedy": "jokes",
    "Drama": "tears",
    "Horror": "screams",
    "Romance": "kisses",
    "Thriller": "twists",
    "War": "battles",
}


def make_rich_corpus(
    folder: Path, *, seed: int = 7, has_times: bool = True, **sizes: int
) -> Corpus:
    """Write a corpus in which everything that is said follows from genres and a user's taste.

    Beside the ratings of the tiny corpus there are impressions: four films under one request_id,
    each `clicked` or `skipped`.

    Args:
        folder: where the corpus is to stand.
        seed: of everything random.
        has_times: without, events and searches have no times, as in a log that lost them.
        sizes: `users`, `items`, `events_per_user` of the tiny corpus.
    """
    content = tiny_tables(seed=seed, **sizes)
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    films = content["items"].to_pylist()
    ratings = content["events"].to_pylist()
    genres = {film["item_id"]: film["genres"] for film in films}
    instants = {(row["user_id"], row["timestamp"]): row for row in ratings}
    moments = [row for row in instants.values() if rng.random() < 0.12]
    rows = [_rated(row, genres, rng) for row in ratings]
    rows += [shown for row in moments for shown in _impression(row, genres, rng)]
    events = _table(rows, {"timestamp": _TIME, "value": pa.float32()})
    searches = [hit for row in moments[::2] for hit in _searched(row, genres, rng)]
    tables = {
        "queries": pa.table({"query_id": list(_queries()), "text": list(_queries().values())}),
        "judgements": pa.Table.from_pylist(list(_judgements(films, rng))),
        "searches": _table(searches, {"timestamp": _TIME}),
        "tags": _table(list(_tags(ratings, genres, rng)), {"timestamp": _TIME}),
        "links": pa.Table.from_pylist(list(_links(films))),
    }
    if not has_times:
        events, tables["searches"] = _untimed(events), _untimed(tables["searches"])
    arguments = {**content, **tables, "name": "tiny-rich", "events": events}
    return write_corpus(folder, event_fields=EVENT_FIELDS, **arguments)


def _table(rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> pa.Table:
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in rows[0]}
    return pa.table({n: pa.array(values, types.get(n)) for n, values in columns.items()})


def _untimed(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("timestamp")
    return table.set_column(place, "timestamp", pa.nulls(len(table), _TIME))


def _rated(
    row: dict[str, Any], genres: dict[str, list[str]], rng: np.random.Generator
) -> dict[str, Any]:
    value = row["value"]
    fields: dict[str, Any] = {
        "request_id": None,
        "review": _review(value, genres[row["item_id"]], rng),
        "recommended": "yes" if value >= 4 else "no",
        "finished": "yes" if value + rng.normal() > 2.5 else "no",
        "spoiler": "yes" if rng.random() < 0.1 else "no",
        "early_access": "yes" if rng.random() < 0.1 else "no",
        "hours": round(float(np.exp(value - 2 + rng.normal() / 2)), 1),
        "plays": float(rng.poisson(2 * value) + 1),
        "helpful": float(rng.poisson(1.5)),
        "watch_ratio": round(float(value / 4 + rng.random() / 4), 3),
        "position": None,
        "propensity": None,
    }
    if rng.random() < 0.2:
        fields["hours"] = None
    return {**row, **fields}


def _review(value: float, genres: list[str], rng: np.random.Generator) -> str | None:
    if rng.random() < 0.4:
        return None
    word = _WORDS[genres[int(rng.integers(len(genres)))]]
    verdict = {1: "Dreadful", 2: "Weak", 3: "Fair", 4: "Good", 5: "Wonderful"}[round(value)]
    rest = (
        "Would watch again.",
        "My friends: less so | 2 of 5.",
        "¡Qué película! 🎬",
        "<|endoftext|>",
    )
    return f"{verdict} {word}.\n{rest[int(rng.integers(len(rest)))]}"


def _impression(
    row: dict[str, Any], genres: dict[str, list[str]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Films shown half an hour after a rating: those that share its genres are clicked or skipped
    as the rating was high or low."""
    liked = row["value"] >= 4
    items = rng.choice(sorted(genres), SHOWN, replace=False)
    empty = dict.fromkeys(field.name for field in EVENT_FIELDS)
    for position, item in enumerate(items, start=1):
        alike = bool(set(genres[item]) & set(genres[row["item_id"]]))
        yield {
            **row,
            **empty,
            "item_id": str(item),
            "timestamp": row["timestamp"] + np.timedelta64(HOUR // 2, "ms").item(),
            "action": "clicked" if alike == liked and rng.random() < 0.9 else "skipped",
            "value": None,
            "request_id": f"{row['user_id']}-{row['item_id']}",
            "position": float(position),
            "propensity": 1 / SHOWN,
        }


def _queries() -> dict[str, str]:
    """Query id -> text: a genre alone, and with each decade."""
    ids = {f"q-{genre.lower()}": f"{genre.lower()} films" for genre in GENRES}
    for genre in GENRES:
        for decade in range(1950, 2000, 10):
            ids[f"q-{genre.lower()}-{decade}"] = f"{genre.lower()} films of the {decade}s"
    return ids


def _judgements(films: list[dict[str, Any]], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for query_id in _queries():
        _, genre, *decade = query_id.split("-")
        for film in rng.permutation(np.array(films, dtype=object))[:12]:
            fits = genre.title() in film["genres"]
            near = not decade or abs(film["year"] - int(decade[0]) - 5) <= 5
            grade = {(1, 1): 1.0, (1, 0): 0.1, (0, 1): 0.01, (0, 0): 0.0}[fits, near]
            if not decade:
                grade = 1.0 if fits else 0.0
            yield {
                "query_id": query_id,
                "item_id": film["item_id"],
                "grade": grade,
                "label": LABELS[grade],
            }


def _searched(
    row: dict[str, Any], genres: dict[str, list[str]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """A user looks for the genre of a film that was just rated, and takes one that fits."""
    genre = genres[row["item_id"]][0]
    request = f"s-{row['user_id']}-{row['item_id']}"
    taken = False
    for position, item in enumerate(rng.choice(sorted(genres), SHOWN, replace=False), start=1):
        clicked = genre in genres[item] and not taken
        taken = taken or clicked
        yield {
            "user_id": row["user_id"],
            "query_id": f"q-{genre.lower()}",
            "timestamp": row["timestamp"] + np.timedelta64(HOUR // 4, "ms").item(),
            "item_id": str(item),
            "action": "clicked" if clicked else "skipped",
            "request_id": request,
            "position": float(position),
        }


def _tags(
    ratings: list[dict[str, Any]], genres: dict[str, list[str]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """What users call films, dated; and how much every film is of every genre, by nobody."""
    for row in ratings:
        if rng.random() < 0.15:
            word = _WORDS[genres[row["item_id"]][0]]
            yield {
                **{k: row[k] for k in ("item_id", "user_id", "timestamp")},
                "tag": word,
                "weight": None,
            }
    for item, its in genres.items():
        for genre in GENRES:
            weight = float(np.clip((genre in its) * 0.7 + rng.random() * 0.3, 0, 1))
            yield {
                "item_id": item,
                "user_id": None,
                "timestamp": None,
                "tag": genre.lower(),
                "weight": weight,
            }


def _links(films: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for film in films:
        alike = [other["item_id"] for other in films if other["genres"] == film["genres"]]
        for other in [item for item in alike if item != film["item_id"]][:5]:
            yield {"item_id": film["item_id"], "other_id": other, "relation": "similar"}
    for film, other in pairwise(films):
        yield {"item_id": film["item_id"], "other_id": other["item_id"], "relation": "also_bought"}
