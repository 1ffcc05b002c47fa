"""Fixtures that several packages' tests share."""

import pytest
from tiny_corpus import make_corpus
from tiny_rich import make_rich_corpus

from data_pipeline.build import compile_store
from data_pipeline.corpus import Corpus
from data_pipeline.store import TokenStore


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("tiny") / "corpus")


@pytest.fixture(scope="session")
def tiny_store(tiny_corpus: Corpus) -> TokenStore:
    """The tiny corpus compiled for a tokenizer trained on it. Do not write to its folder."""
    return compile_store(tiny_corpus, "train:1024", tiny_corpus.folder.parent / "store")


@pytest.fixture(scope="session")
def rich_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus with every event field and every optional table."""
    return make_rich_corpus(tmp_path_factory.mktemp("rich") / "corpus")


@pytest.fixture(scope="session")
def rich_store(rich_corpus: Corpus) -> TokenStore:
    """The rich corpus compiled for a tokenizer trained on it. Do not write to its folder."""
    return compile_store(rich_corpus, "train:1024", rich_corpus.folder.parent / "store")
