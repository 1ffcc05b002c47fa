"""What the MovieLens datasets have in common: people's dated ratings of films, and their tags.

Titles lose their year and get their article in front ("The Usual Suspects"); genres stand in the
publisher's order. The variant `enriched` adds directors, actors, countries and running times out of
the film catalogue. Users' tags are rows with user and time; tags that the publisher computed
(25M: the "tag genome") are rows without either, their relevance from 0 to 1 as weight.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
J. Vig, S. Sen and J. Riedl, "The Tag Genome", ACM TiiS 2(3), 2012.
"""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.corpus_checks import codes_of
from data_pipeline.corpus_schema import item_schema
from data_pipeline.sources.assembly import check_counts, listed
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.film_catalogue import ENRICHING_FIELDS, FilmCatalogue, enriched
from data_pipeline.sources.film_titles import plain_title
from data_pipeline.sources.spool import kept, spool_beside

log = logging.getLogger(__name__)

PUBLISHER = "https://files.grouplens.org/datasets/movielens"
FILM_FIELDS = (Field(name="year", kind="year"), Field(name="genres", kind="categories"))
RATED_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("action", pa.string()),
        ("value", pa.float32()),
    ]
)
STRICT_LICENCE = (
    "GroupLens: research use with acknowledgement; no redistribution and no commercial use "
    "without permission"
)
SHARING_LICENCE = (
    "GroupLens: research use with acknowledgement; redistribution under the same conditions; no "
    "commercial use without permission"
)
_NO_GENRES = frozenset(("(no genres listed)", "unknown"))


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What a MovieLens dataset consists of."""

    items: pa.Table
    users: pa.Table
    events: pa.Table
    tags: pa.Table | None = None
    user_fields: tuple[Field, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MovieLens(Source):
    """A MovieLens dataset, whatever its files look like."""

    title: str
    """What its publisher calls it."""
    counts: Mapping[str, int]
    """Published numbers of users, films, ratings and, where there are any, tags."""
    variants: tuple[str, ...] = ("", "enriched")
    variant: str = ""
    catalogue: FilmCatalogue = field(default_factory=FilmCatalogue)
    """Where the variant `enriched` gets its fields from."""

    @abstractmethod
    def fetch_files(self, cache: Path, from_dir: Path | None, progress: Progress | None) -> Paths:
        """Bring the dataset's own files here.

        Raises:
            DataError: the files cannot be had, or are not the expected ones.
        """

    @abstractmethod
    def read(self, paths: Paths, spool: Path) -> Tables:
        """Read them; big tables are spooled.

        Raises:
            DataError: a file is not what its dataset's is.
        """

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        paths = self.fetch_files(self.cache(cache_dir), from_dir, progress)
        if self.variant != "enriched":
            return paths
        # A user's folder need not hold the catalogue if it was fetched before.
        is_here = any(self.catalogue.cache(cache_dir).glob("*"))
        log.info("%s: %s", self.catalogue.name, self.catalogue.licence)
        films = self.catalogue.fetch(cache_dir, None if is_here else from_dir, progress)
        return {**paths, "catalogue": films["films"]}

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        with spool_beside(folder) as spool:
            tables = self.read(paths, spool)
            self._check(tables, paths["events"].parent)
            tags = None if tables.tags is None else _tidy(tables.tags, spool)
            items, licence = tables.items, self.licence
            fields: tuple[Field, ...] = FILM_FIELDS
            if "catalogue" in paths:
                items = self._enriched(tables, paths["catalogue"])
                fields = (*FILM_FIELDS, *ENRICHING_FIELDS)
                licence += f"; {self.catalogue.name}: {self.catalogue.licence}"
            return write_corpus(
                folder,
                name=self.full_name,
                items=items,
                users=tables.users,
                events=tables.events,
                tags=tags,
                item_fields=fields,
                user_fields=tables.user_fields,
                item_noun="film",
                source=f"{self.title}, GroupLens, {self.homepage}",
                licence=licence,
                origins=tables.origins,
                overwrite=overwrite,
            )

    def _check(self, tables: Tables, place: Path) -> None:
        found = {
            "users": len(listed(tables.events["user_id"])),
            "films": len(tables.items),
            "rated films": len(listed(tables.events["item_id"])),
            "ratings": len(tables.events),
        }
        if tables.tags is not None:
            found["genome scores"] = len(tables.tags) - tables.tags["weight"].null_count
            found["tags"] = len(tables.tags) - found["genome scores"]
        check_counts(self.title, found, self.counts, place)

    def _enriched(self, tables: Tables, path: Path) -> pa.Table:
        items, is_found = enriched(tables.items, self.catalogue.films(path))
        known = items["item_id"].filter(pa.array(is_found))
        n_ratings = int((codes_of(tables.events["item_id"], known) >= 0).sum()) if known else 0
        log.info(
            "%s of %s films are in the film catalogue: %.1f%% of the ratings",
            f"{sum(is_found):,}",
            f"{len(items):,}",
            100 * n_ratings / len(tables.events),
        )
        return items


def _tidy(tags: pa.Table, spool: Path) -> pa.Table:
    """Without tags of blanks, and without those that a user gave twice at one moment."""
    keep_N = np.array(pc.not_equal(pc.utf8_trim_whitespace(tags["tag"]), ""))
    by_users = tags.slice(0, tags["weight"].null_count)  # computed tags come behind
    rows = by_users.append_column("row", pa.array(np.arange(len(by_users))))
    key = ["item_id", "tag", "user_id", "timestamp"]
    first_rows = rows.group_by(key).aggregate([("row", "min")])["row_min"].to_numpy()
    is_first = np.zeros(len(by_users), dtype=bool)
    is_first[first_rows] = True
    keep_N[: len(by_users)] &= is_first
    if not keep_N.all():
        log.info("left out %s tags: blank, or given twice", f"{(~keep_N).sum():,}")
    return kept(spool, tags, keep_N)


def film_table(films: Iterable[tuple[str, str, list[str]]]) -> pa.Table:
    """Films out of id, title with year as the publisher writes it, and genres."""
    rows = []
    for item_id, catalogue_title, genres in films:
        title, year = plain_title(catalogue_title)
        kept = [genre for genre in genres if genre not in _NO_GENRES]
        rows.append({"item_id": item_id, "title": title, "year": year, "genres": kept or None})
    return pa.Table.from_pylist(rows, schema=item_schema(FILM_FIELDS))
