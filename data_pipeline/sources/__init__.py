"""Public datasets by name. A new one is a module with a `Source`, and its line in `_BUILT_IN`."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.files import refuse_existing
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.mapping import nearest

__all__ = [
    "Paths",
    "Progress",
    "Source",
    "every",
    "fetch_corpus",
    "find",
    "get",
    "names",
    "register",
]

_BUILT_IN = {
    "amazon-2014": "data_pipeline.sources.amazon_2014:AmazonReviews2014",
    "amazon-2023": "data_pipeline.sources.amazon_2023:AmazonReviews2023",
    "amazon-c4": "data_pipeline.sources.amazon_c4:AmazonC4",
    "clothing-reviews": "data_pipeline.sources.clothing_reviews:ClothingReviews",
    "cranfield": "data_pipeline.sources.cranfield:Cranfield",
    "esci": "data_pipeline.sources.esci:Esci",
    "film-catalogue": "data_pipeline.sources.film_catalogue:FilmCatalogue",
    "goodreads": "data_pipeline.sources.goodreads:Goodreads",
    "kuairec": "data_pipeline.sources.kuairec:KuaiRec",
    "kuaisar": "data_pipeline.sources.kuaisar:KuaiSAR",
    "lastfm": "data_pipeline.sources.lastfm:LastFM",
    "mind": "data_pipeline.sources.mind:Mind",
    "movielens-100k": "data_pipeline.sources.movielens_100k:MovieLens100K",
    "movielens-1m": "data_pipeline.sources.movielens_1m:MovieLens1M",
    "movielens-2016": "data_pipeline.sources.movielens_2016:MovieLens2016",
    "movielens-25m": "data_pipeline.sources.movielens_csv:MovieLens25M",
    "movielens-32m": "data_pipeline.sources.movielens_csv:MovieLens32M",
    "movielens-latest-small": "data_pipeline.sources.movielens_csv:MovieLensLatestSmall",
    "open-bandit": "data_pipeline.sources.open_bandit:OpenBandit",
    "semanlink": "data_pipeline.sources.semanlink:Semanlink",
    "steam": "data_pipeline.sources.steam:Steam",
    "wands": "data_pipeline.sources.wands:Wands",
    "yelp": "data_pipeline.sources.yelp:Yelp",
}
_REGISTERED: dict[str, Source] = {}


def register(source: Source) -> None:
    """Add a source under its name: what a plugin calls.

    Raises:
        ValueError: the name is taken.
    """
    if source.name in names():
        raise ValueError(f"a source named '{source.name}' is registered already: rename yours")
    _REGISTERED[source.name] = source


def names() -> list[str]:
    """The names that `get` knows, without their variants."""
    return sorted({*_BUILT_IN, *_REGISTERED})


def every() -> list[Source]:
    """All sources by name, none of their variants chosen."""
    return [_made(name, "") for name in names()]


def get(name: str) -> Source:
    """The source of a name, or of NAME:VARIANT.

    Raises:
        DataError: there is none of this name, or it has no such variant.
    """
    source = find(name)
    source.check_variant()
    return source


def find(name: str) -> Source:
    """The source of a name, whether or not its variant is one of those there are.

    Raises:
        DataError: there is none of this name, or it has no variants at all.
    """
    base, _, variant = name.partition(":")
    if base not in names():
        guess = nearest(base, names())
        raise DataError(
            f"there is no dataset '{base}'" + (f": did you mean '{guess}'?" if guess else ""),
            remedy=f"choose one of {', '.join(names())}; your own files: brewhouse data import",
        )
    return _made(base, variant)


def _made(name: str, variant: str) -> Source:
    if name in _REGISTERED:
        source = _REGISTERED[name]
    else:
        module, _, attribute = _BUILT_IN[name].partition(":")
        source = getattr(importlib.import_module(module), attribute)()
    if not variant:
        return source
    if "variant" not in getattr(source, "__dataclass_fields__", {}):
        raise DataError(f"{name} has no variants", value=variant, remedy=f"ask for {name}")
    made: Source = dataclasses.replace(source, variant=variant)  # type: ignore[type-var]
    return made


def fetch_corpus(
    name: str,
    folder: Path | str,
    *,
    cache_dir: Path | str,
    from_dir: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    notice: Callable[[Source], None] | None = None,
) -> Corpus:
    """Fetch a public dataset and write it as a corpus.

    Args:
        name: one of `names()`, with ":VARIANT" where it comes in variants.
        folder: where the corpus is to stand.
        cache_dir: where downloads stay.
        from_dir: a folder with the dataset's files; nothing is downloaded then.
        overwrite: replace a corpus that stands there.
        progress: told about the download.
        notice: called before the first download of this dataset, so that a person sees its licence.

    Raises:
        DataError: no such dataset, its files cannot be had, or are not the expected ones.
    """
    source = get(name)
    folder, cache_path = Path(folder), Path(cache_dir)
    refuse_existing(folder, overwrite)
    from_path = None if from_dir is None else Path(from_dir)
    if notice is not None and from_path is None and not source.cache(cache_path).exists():
        notice(source)
    paths = source.fetch(cache_path, from_path, progress)
    return source.build(paths, folder, overwrite=overwrite)
