"""The datasets that any package index carries, for real: the counts and contents that are known."""

import logging
from pathlib import Path

import pytest

from data_pipeline import sources


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fingerprint", "counts"),
    [
        ("movielens-2016", "f1bdcb71bdf95564", {"items": 9066, "users": 671, "events": 100_004}),
        ("open-bandit", "0899fc0126a18efd", {"items": 160, "users": 60_000, "events": 60_000}),
        ("clothing-reviews", "5aa6d9a954071f70", {"items": 1206, "events": 23_486}),
        (
            "semanlink",
            "a6f22e1b129e7a83",
            {
                "items": 7300,
                "events": 7300,
                "queries": 873,
                "judgements": 10_924,
                "tags": 16_769,
                "links": 250,
            },
        ),
        (
            "film-catalogue",
            "6090ee94f5b302a1",
            {"items": 17_472, "events": 0, "queries": 11_353, "judgements": 136_327},
        ),
    ],
)
def test_real_dataset_is_the_one_that_is_known(
    tmp_path: Path, name: str, fingerprint: str, counts: dict[str, int]
) -> None:
    """Needs a package index."""
    corpus = sources.fetch_corpus(name, tmp_path / "c", cache_dir=tmp_path / "cache")
    assert {what: corpus.card.counts[what] for what in counts} == counts
    assert corpus.fingerprint == fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("movielens-2016", "7,488 of 9,066 films are in the film catalogue: 94.2% of the ratings"),
        ("movielens-100k", "1,393 of 1,682 films are in the film catalogue: 92.9% of the ratings"),
    ],
)
def test_real_films_are_found_in_the_catalogue(
    tmp_path: Path, name: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Needs a package index."""
    with caplog.at_level(logging.INFO):
        corpus = sources.fetch_corpus(f"{name}:enriched", tmp_path / "c", cache_dir=tmp_path / "x")
    assert told in caplog.text
    assert corpus.items["directors"].null_count < len(corpus.items) / 5
