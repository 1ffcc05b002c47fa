"""Public datasets by name. A new one is a module with a `Source`, and its line in `_BUILT_IN`."""

import importlib
from pathlib import Path

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.files import refuse_existing
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.mapping import nearest

__all__ = ["Paths", "Progress", "Source", "fetch_corpus", "get", "names", "register"]

_BUILT_IN = {
    "movielens-100k": "data_pipeline.sources.movielens:MovieLens100K",
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
    """The names that `get` knows."""
    return sorted({*_BUILT_IN, *_REGISTERED})


def get(name: str) -> Source:
    """The source of a name.

    Raises:
        DataError: there is none of this name.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        source: Source = getattr(importlib.import_module(module), attribute)()
        return source
    guess = nearest(name, names())
    raise DataError(
        f"there is no dataset '{name}'" + (f": did you mean '{guess}'?" if guess else ""),
        remedy=f"choose one of {', '.join(names())}; your own files: brewhouse data import",
    )


def fetch_corpus(
    name: str,
    folder: Path | str,
    *,
    cache_dir: Path | str,
    from_dir: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Fetch a public dataset and write it as a corpus.

    Args:
        name: one of `names()`.
        folder: where the corpus is to stand.
        cache_dir: where downloads stay.
        from_dir: a folder with the dataset's files; nothing is downloaded then.
        overwrite: replace a corpus that stands there.
        progress: told about the download.

    Raises:
        DataError: no such dataset, its files cannot be had, or are not the expected ones.
    """
    source = get(name)
    folder = Path(folder)
    refuse_existing(folder, overwrite)
    from_path = None if from_dir is None else Path(from_dir)
    paths = source.fetch(Path(cache_dir), from_path, progress)
    return source.build(paths, folder, overwrite=overwrite)
