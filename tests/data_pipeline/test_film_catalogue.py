"""The film catalogue: a corpus of films, a search collection, and fields for other films."""

import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_films import FILMS, write_catalogue

from data_pipeline.errors import DataError
from data_pipeline.sources.film_catalogue import FilmCatalogue, enriched
from data_pipeline.sources.film_titles import names_of


@pytest.fixture
def source() -> FilmCatalogue:
    return FilmCatalogue(counts={"films": len(FILMS)})


@pytest.fixture
def films(tmp_path: Path, source: FilmCatalogue) -> list[dict[str, Any]]:
    return source.films(write_catalogue(tmp_path / "movies.db"))


def test_a_corpus_of_items_with_a_search_collection(
    tmp_path: Path, source: FilmCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.sources.film_catalogue.FILMS_OF_A_QUERY", 3)
    with zipfile.ZipFile(tmp_path / "bokeh_sampledata-2026.1-py3-none-any.whl", "w") as wheel:
        wheel.write(write_catalogue(tmp_path / "x.db"), "bokeh_sampledata/_data/movies.db")
    corpus = source.build(source.fetch(tmp_path / "cache", tmp_path), tmp_path / "corpus")
    assert corpus.card.counts == {
        "items": 8, "users": 0, "events": 0, "queries": 2, "judgements": 6
    }  # fmt: skip
    by_id = {row["item_id"]: row for row in corpus.items.to_pylist()}
    assert by_id["Q83495"] == {
        "item_id": "Q83495",
        "title": "The Matrix",
        "year": 1999.0,
        "genres": ["Sci-Fi", "Action"],
        "directors": ["Lana Wachowski", "Lilly Wachowski"],
        # The best known come first, then those that the table lists first.
        "cast": ["Carrie-Anne Moss", "Keanu Reeves", "Ada Nicodemou"],
        "countries": ["Australia"],
        "runtime": 136.0,
        "languages": ["English"],
    }
    assert by_id["Q5"]["genres"] is None
    assert by_id["Q3"]["cast"] is None
    queries, judgements = corpus.table("queries"), corpus.table("judgements")
    assert queries is not None
    assert judgements is not None
    assert set(queries["text"].to_pylist()) == {"Carrie-Anne Moss", "Keanu Reeves"}
    reeves = [row for row in judgements.to_pylist() if row["query_id"] == "Keanu Reeves"]
    assert {(row["item_id"], row["label"]) for row in reeves} == {
        ("Q83495", "actor"), ("Q11621", "actor"), ("Q8", "director")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("title", "year", "directors"),
    [
        ("The Matrix", 1999.0, ["Lana Wachowski", "Lilly Wachowski"]),
        ("Matrix", 1999.0, ["Lana Wachowski", "Lilly Wachowski"]),  # articles are no difference
        ("Amelie (Fabuleux destin d'Amélie Poulain, Le)", 2001.0, ["Jean-Pierre Jeunet"]),
        ("Fabulous Destiny (a.k.a. AMÉLIE)", 2001.0, ["Jean-Pierre Jeunet"]),
        ("Memento", 2001.0, ["Christopher Nolan"]),  # festival and premiere
        ("Memento", 2002.0, None),
        ("Titanic", None, None),
        ("The Singer", 2006.0, None),  # which of the two?
        ("Nobody Knows", 1999.0, None),
    ],
)
def test_films_are_found_by_name_and_year(
    films: list[dict[str, Any]], title: str, year: float | None, directors: list[str] | None
) -> None:
    items = pa.table({"title": [title], "year": pa.array([year], pa.float64())})
    added, is_found = enriched(items, films)
    assert added["directors"].to_pylist() == [directors]
    assert is_found == [directors is not None]


def test_names_of_a_title() -> None:
    assert names_of("Wallace & Gromit: The Wrong Trousers") == [
        "wallace and gromit the wrong trousers"
    ]
    assert names_of("Schindler's List") == names_of("Schindler\u2019s List") == ["schindlers list"]
    assert names_of("8½ (8 1/2)") == ["81 2", "8 1 2"]
    assert names_of("The") == ["the"]
    assert names_of("千と千尋") == ["千と千尋"]


def test_files_that_are_not_the_catalogue(tmp_path: Path, source: FilmCatalogue) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at")
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE other (x)").connection.close()
    for name in ("text.db", "empty.db", "missing.db"):
        with pytest.raises(DataError, match="not the catalogue's database") as caught:
            source.films(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(DataError, match="has 17,472 films; these files have 8"):
        FilmCatalogue().films(write_catalogue(tmp_path / "movies.db"))
