"""A small corpus with taste in it, made in the test."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, write_corpus

GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Thriller", "War")
FIRST_DAY = 1_500_000_000_000  # ms since 1970
HOUR = 3_600_000
LATE_ITEMS = 8


def make_corpus(
    folder: Path, *, users: int = 120, items: int = 60, events_per_user: int = 40, seed: int = 7
) -> Corpus:
    """Write a corpus in which every user likes one genre and dislikes another.

    Users arrive over time, so that a split by time has both old and new ones in its last part.
    """
    tables = tiny_tables(users=users, items=items, events_per_user=events_per_user, seed=seed)
    return write_corpus(folder, **tables)


def tiny_tables(
    *, users: int = 120, items: int = 60, events_per_user: int = 40, seed: int = 7
) -> dict[str, Any]:
    """Arguments of `write_corpus`."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    genre = rng.integers(0, len(GENRES), items)
    second = rng.integers(0, len(GENRES), items)
    years = 1950 + rng.integers(0, 50, items)
    catalogue = pa.table(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [f"The {GENRES[genre[n]]} of {n * 37 % 101} Rivers" for n in range(items)],
            "year": pa.array(years.astype(float)),
            "genres": [sorted({GENRES[genre[n]], GENRES[second[n]]}) for n in range(items)],
        }
    )
    people = pa.table(
        {
            "user_id": [f"u{n}" for n in range(users)],
            "age": pa.array(18.0 + rng.integers(0, 50, users)),
            "gender": [("F", "M")[n % 2] for n in range(users)],
        }
    )
    rows: dict[str, list[object]] = {name: [] for name in ("user", "item", "time", "value")}
    for user in range(users):
        likes, dislikes = rng.permutation(len(GENRES))[:2]
        start = FIRST_DAY + int(rng.integers(0, 300)) * 24 * HOUR
        # The last few items came out late: only the last users can have met them.
        known = items if start > FIRST_DAY + 280 * 24 * HOUR else items - LATE_ITEMS
        seen = rng.permutation(known)[:events_per_user]
        for n, item in enumerate(seen):
            noise = rng.normal(0, 0.5)
            value = 3 + 1.6 * (genre[item] == likes) - 1.6 * (genre[item] == dislikes) + noise
            rows["user"].append(f"u{user}")
            rows["item"].append(f"i{item}")
            # Every fourth event shares its instant with the one before: a request of two.
            rows["time"].append(start + (n - (n % 4 == 3)) * HOUR)
            rows["value"].append(float(np.clip(np.round(value), 1, 5)))
    events = pa.table(
        {
            "user_id": rows["user"],
            "item_id": rows["item"],
            "timestamp": pa.array(rows["time"], pa.timestamp("ms", "UTC")),
            "action": ["rated"] * len(rows["user"]),
            "value": pa.array(rows["value"], pa.float32()),
        }
    )
    return {
        "name": "tiny",
        "item_noun": "film",
        "source": "made by the tests",
        "licence": "CC0-1.0",
        "item_fields": (Field(name="year", kind="year"), Field(name="genres", kind="categories")),
        "user_fields": (Field(name="age", kind="number"), Field(name="gender", kind="category")),
        "items": catalogue,
        "users": people,
        "events": events,
    }
