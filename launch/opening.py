"""Open what a person names on the command line: a store, a corpus, a config, a task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from data_pipeline.errors import DataError
from launch.console import err

if TYPE_CHECKING:
    from data_pipeline.mixture import Mixture
    from data_pipeline.splits import SplitConfig
    from data_pipeline.store import TokenStore
    from data_pipeline.tasks.base import Task
    from train.config import TrainConfig

PREVIEW_TOKENIZER = "train:8192"


def open_mixture(source: Path) -> tuple[Mixture, list[TokenStore]]:
    """The mixture of a training config (a file), or the default mixture of a store (a folder)."""
    from data_pipeline.mixture import Mixture
    from data_pipeline.mixture_config import MixtureConfig
    from data_pipeline.store import TokenStore

    if source.is_dir():
        stores = [TokenStore.open(source)]
        return Mixture(stores, MixtureConfig(), seed=0), stores
    if not source.exists():
        raise DataError(
            "there is neither a token store nor a config of this name",
            file=source,
            remedy="name the folder that `brewhouse data build` wrote, or a config file",
        )
    _, mixture = mixture_of_config(source)
    return mixture, list(mixture.stores)


def mixture_of_config(source: Path, overrides: Sequence[str] = ()) -> tuple[TrainConfig, Mixture]:
    """A training config with its overrides, and the mixture that it trains on."""
    from data_pipeline.mixture import Mixture
    from data_pipeline.store import open_stores
    from train.config import load_config
    from train.plugins import load_plugins

    config = load_config(source, overrides)
    load_plugins(config.plugins)
    return config, Mixture(open_stores(config.stores), config.mixture, seed=config.seed)


def open_or_compile(corpus_dir: Path | None, store_dir: Path | None) -> TokenStore | None:
    """The store that is named, or a corpus compiled for a small tokenizer of its own.

    What was compiled is kept in the cache folder under the corpus's fingerprint.

    Raises:
        DataError: both are named.
    """
    from data_pipeline.corpus import Corpus
    from data_pipeline.store import TokenStore

    if corpus_dir and store_dir:
        raise DataError(
            "--corpus and --store are both given",
            remedy="name one: the store says exactly what a model of its tokenizer sees",
        )
    if store_dir:
        return TokenStore.open(store_dir)
    if not corpus_dir:
        return None
    corpus = Corpus.open(corpus_dir)
    folder = cache_dir() / "preview-stores" / corpus.fingerprint
    if not folder.exists():
        err.print(f"compiling {corpus_dir} with --tokenizer {PREVIEW_TOKENIZER}", style="dim")
        folder.parent.mkdir(parents=True, exist_ok=True)
        return compile_corpus(corpus_dir, PREVIEW_TOKENIZER, folder)
    try:
        return TokenStore.open(folder)
    except DataError:
        # Compiled by another version: it is only a cache.
        return compile_corpus(corpus_dir, PREVIEW_TOKENIZER, folder, overwrite=True)


def find_task(name: str) -> Task:
    """A task by its name or its number in the catalogue (`like`, `T01`).

    Raises:
        DataError: there is none; the message lists the nearest names.
    """
    from data_pipeline.tasks import all_tasks, task_named

    by_code = {task.code: task for task in all_tasks().values()}
    return by_code.get(name) or task_named(name)


def cache_dir() -> Path:
    """Where downloads are kept: BREWHOUSE_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("BREWHOUSE_CACHE") or Path(base) / "brewhouse")


def split_config(
    method: str,
    *,
    train_end: str | None = None,
    validation_end: str | None = None,
    gap_days: float | None = None,
) -> SplitConfig:
    """The split that options ask for; what is None is as the config has it.

    Raises:
        typer.BadParameter: there is no such method.
        ValueError: a moment cannot be read, or the options contradict each other.
    """
    from typing import get_args, get_type_hints

    from data_pipeline.splits import SplitConfig

    methods = get_args(get_type_hints(SplitConfig)["method"])
    if method not in methods:
        raise typer.BadParameter(f"'{method}' is no split: choose {' or '.join(methods)}")
    given = {"train_end": train_end, "validation_end": validation_end, "gap_days": gap_days}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return SplitConfig(method=method, **settings)  # type: ignore[arg-type]


def compile_corpus(
    corpus_dir: Path,
    tokenizer: str,
    out_dir: Path,
    *,
    split: SplitConfig | None = None,
    overwrite: bool = False,
) -> TokenStore:
    """Open a corpus and compile it."""
    from data_pipeline.build import BuildConfig, compile_store
    from data_pipeline.corpus import Corpus

    if tokenizer.startswith("package:"):
        # Weights in a package come with their tokenizer: turn them into a folder, once.
        from modeling.weights import resolve_weights

        tokenizer = resolve_weights(tokenizer)
    config = BuildConfig() if split is None else BuildConfig(split=split)
    return compile_store(Corpus.open(corpus_dir), tokenizer, out_dir, config, overwrite=overwrite)
