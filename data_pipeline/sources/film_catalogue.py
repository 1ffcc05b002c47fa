"""Wikidata's films of 1940 to 2014 (CC0): directors, actors, countries, languages, running times.

The table `omdb` in the sample data of Bokeh 2026.1 (earlier versions held other data under another
licence). It names no users. Its films are found by title and year to enrich those of other corpora;
as a corpus of its own it has questions about fields, and a search collection: the name of everyone
who made at least five films is a query, and those films are what it asks for.

The table lists a cast by first names. The actors kept with a film are the three who appear in most
films of the catalogue, those that people know; for the search collection all of them count.
"""

import logging
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_schema import item_schema
from data_pipeline.errors import DataError
from data_pipeline.sources.assembly import check_counts
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.film_titles import names_of
from data_pipeline.sources.packages import fetch_package

log = logging.getLogger(__name__)

ENRICHING_FIELDS = (
    Field(name="directors", kind="categories"),
    Field(name="cast", kind="categories"),
    Field(name="countries", kind="categories"),
    Field(name="runtime", kind="number"),
)
"""What is added to the films of another corpus; `runtime` in minutes."""
_OWN_FIELDS = (
    Field(name="year", kind="year"),
    Field(name="genres", kind="categories"),
    *ENRICHING_FIELDS,
    Field(name="languages", kind="categories"),
)
_COLUMNS = {
    "id": "ID",
    "title": "Title",
    "year": "Year",
    "genres": "Genre",
    "directors": "Director",
    "cast": "Cast",
    "countries": "Country",
    "languages": "Language",
    "runtime": "Runtime",
}
_CAST_KEPT = 3
FILMS_OF_A_QUERY = 5
"""Somebody with fewer films is no query."""


@dataclass(frozen=True, kw_only=True)
class FilmCatalogue(Source):
    """Films with their makers."""

    name: str = "film-catalogue"
    licence: str = (
        "CC0-1.0: Wikidata's structured data is free for any use "
        "(www.wikidata.org/wiki/Wikidata:Licensing)"
    )
    homepage: str = "https://github.com/bokeh/bokeh_sampledata"
    sha256: str = "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f"
    counts: Mapping[str, int] = field(default_factory=lambda: {"films": 17_472})

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        return fetch_package(
            "bokeh-sampledata==2026.1",
            self.cache(cache_dir),
            members={"films": "bokeh_sampledata/_data/movies.db"},
            sha256=self.sha256,
            from_dir=from_dir,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        films = self.films(paths["films"])
        queries, judgements = _searches(films)
        return write_corpus(
            folder,
            name=self.name,
            items=_table(films),
            queries=queries,
            judgements=judgements,
            item_fields=_OWN_FIELDS,
            item_noun="film",
            source=f"Wikidata films in Bokeh's sample data 2026.1, {self.homepage}",
            licence=self.licence,
            origins={"items": Origin(files=(str(paths["films"]),))},
            overwrite=overwrite,
        )

    def films(self, path: Path) -> list[dict[str, Any]]:
        """The rows of the table, their lists cut apart; `everyone` is the whole cast.

        Raises:
            DataError: the file is not this database, or not whole.
        """
        names = ", ".join(f'"{column}"' for column in _COLUMNS.values())
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                rows = connection.execute(f"SELECT {names} FROM omdb ORDER BY ID").fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise DataError(
                f"the file is not the catalogue's database: {error}",
                file=path,
                remedy="remove it and fetch again",
            ) from error
        check_counts(self.name, {"films": len(rows)}, self.counts, path)
        films = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        for film in films:
            for name in ("genres", "directors", "cast", "countries", "languages"):
                parts = (film[name] or "").split(", ")
                film[name] = list(dict.fromkeys(part for part in parts if part)) or None
            film["everyone"] = film["cast"] or ()
        _keep_the_known(films)
        return films


def _keep_the_known(films: list[dict[str, Any]]) -> None:
    n_films = Counter(actor for film in films for actor in film["cast"] or ())
    for film in films:
        if film["cast"]:  # the sort is stable: of equals the first listed
            known = sorted(film["cast"], key=lambda actor: -n_films[actor])
            film["cast"] = known[:_CAST_KEPT]


def _searches(films: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
    """Names as queries, and the films that they ask for; who directs and acts counts once."""
    made: dict[str, dict[str, str]] = {}
    for film in films:
        for role, people in (("director", film["directors"] or ()), ("actor", film["everyone"])):
            for person in people:
                made.setdefault(person, {}).setdefault(_item_id(film), role)
    known = {person: roles for person, roles in made.items() if len(roles) >= FILMS_OF_A_QUERY}
    judged = [(person, *found) for person, roles in known.items() for found in roles.items()]
    people, item_ids, labels = zip(*judged, strict=True) if judged else ((), (), ())
    names = pa.array(list(known), pa.string())
    judgements = pa.table(
        {
            "query_id": pa.array(people, pa.string()),
            "item_id": pa.array(item_ids, pa.string()),
            "grade": pa.repeat(1.0, len(judged)),
            "label": pa.array(labels, pa.string()),
        }
    )
    return pa.table({"query_id": names, "text": names}), judgements


def _item_id(film: Mapping[str, Any]) -> str:
    """The table's number of a film is that of its page in Wikidata."""
    return f"Q{film['id']}"


def _table(films: list[dict[str, Any]]) -> pa.Table:
    rows = [{"item_id": _item_id(film), **film} for film in films]
    return pa.Table.from_pylist(rows, schema=item_schema(_OWN_FIELDS))


def enriched(items: pa.Table, films: list[dict[str, Any]]) -> tuple[pa.Table, list[bool]]:
    """The films of another corpus with what the catalogue knows of them.

    A film is found by any of its names, in its year; if there is none, in the year before or
    after, for catalogues date festivals and premieres differently. A name that two films of one
    year have finds neither.

    Args:
        items: with `title` as people say it and `year`.
        films: of `FilmCatalogue.films`.

    Returns:
        The items with `ENRICHING_FIELDS`, and which of them were found.
    """
    by_name: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for film in films:
        for name in names_of(film["title"]):
            by_name.setdefault((name, float(film["year"])), []).append(film)
    found = [
        _found(by_name, title, year)
        for title, year in zip(items["title"].to_pylist(), items["year"].to_pylist(), strict=True)
    ]
    schema = item_schema(ENRICHING_FIELDS)
    for added in ENRICHING_FIELDS:
        values = [None if film is None else film[added.name] for film in found]
        items = items.append_column(
            schema.field(added.name), pa.array(values, schema.field(added.name).type)
        )
    return items, [film is not None for film in found]


def _found(
    by_name: Mapping[tuple[str, float], list[dict[str, Any]]], title: str, year: float | None
) -> dict[str, Any] | None:
    if year is None:
        return None
    for shift in (0, -1, 1):
        for name in names_of(title):
            films = by_name.get((name, year + shift), [])
            if len(films) == 1:
                return films[0]
            if films:
                return None
    return None
