"""The token store that a benchmark runs on when the user names none."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.sources import fetch_corpus
from data_pipeline.store import TokenStore
from launch.opening import cache_dir, compile_corpus

OWN_TOKENIZER = "train:8192"
"""A tokenizer trained on the corpus."""


def movielens_store(folder: Path, tokenizer: str = OWN_TOKENIZER) -> TokenStore:
    """MovieLens-100K, fetched into `folder/corpus` and compiled into `folder/store`."""
    fetch_corpus("movielens-100k", folder / "corpus", cache_dir=cache_dir())
    return compile_corpus(folder / "corpus", tokenizer, folder / "store")
