"""Fixtures that several packages' tests share."""

import pytest
from tiny_corpus import make_corpus

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
