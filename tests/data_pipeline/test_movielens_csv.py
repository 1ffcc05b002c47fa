"""MovieLens as CSV: quoting, half stars, users' tags, and the computed ones of 25M."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.movielens_csv import (
    MovieLens25M,
    MovieLens32M,
    MovieLensCsv,
    MovieLensLatestSmall,
)

MOVIES = '''movieId,title,genres
1,Toy Story (1995),Adventure|Animation
11,"American President, The (1995)",Comedy|Drama
29,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",IMAX
171,"""Great Performances"" Cats (1998)",Musical
193,Fawlty Towers (1975\u20131979),(no genres listed)
194,Unrated,(no genres listed)
'''
RATINGS = """userId,movieId,rating,timestamp
1,1,4.0,964982703
1,11,0.5,964981247
2,29,5.0,1445714835
7,171,3.5,1445714836
7,193,3.5,1445714836
"""
TAGS = '''userId,movieId,tag,timestamp
2,29,"dark, surreal",1445714994
7,1,"""Pixar""",1445714996
7,1,"""Pixar""",1445714996
7,1, ,1445714997
7,194,NA,1445714998
'''
SCORES = """movieId,tagId,relevance
1,1,0.02875000000000005
1,2,0.9
11,1,1.0
"""
NAMES = "tagId,tag\n1,007\n2,toys\n"
COUNTS = {"users": 3, "films": 6, "rated films": 5, "ratings": 5, "tags": 5, "genome scores": 3}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "have" / "ml-25m"
    folder.mkdir(parents=True)
    contents = {"movies": MOVIES, "ratings": RATINGS, "tags": TAGS}
    contents |= {"genome-scores": SCORES, "genome-tags": NAMES}
    for name, content in contents.items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8")
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n1,0114709,862\n")
    return folder.parent


def built(tmp_path: Path, files: Path, source: MovieLensCsv) -> Corpus:
    return source.build(source.fetch(tmp_path / "cache", files), tmp_path / "corpus")


def test_files_become_a_corpus(
    tmp_path: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        corpus = built(tmp_path, files, MovieLens25M(counts=COUNTS))
    assert corpus.items["title"].to_pylist() == [
        "Toy Story",
        "The American President",
        "The City of Lost Children (La Cité des enfants perdus)",
        '"Great Performances" Cats',
        "Fawlty Towers",
        "Unrated",
    ]
    assert corpus.items["year"].to_pylist() == [1995, 1995, 1995, 1998, 1975, None]
    assert corpus.items["genres"].to_pylist()[2:] == [["IMAX"], ["Musical"], None, None]
    assert corpus.users["user_id"].to_pylist() == ["1", "2", "7"]
    assert corpus.events["item_id"].to_pylist() == ["11", "1", "29", "171", "193"]
    assert corpus.time_E[0] == 964981247000
    assert corpus.card.values == (0.5, 3.5, 4.0, 5.0)
    assert "left out 2 tags" in caplog.text


def test_peoples_tags_and_computed_ones_are_kept_apart(tmp_path: Path, files: Path) -> None:
    tags = built(tmp_path, files, MovieLens25M(counts=COUNTS)).table("tags")
    assert tags is not None
    rows = [tuple(row.values()) for row in tags.to_pylist()]
    assert [row[:3] for row in rows[:3]] == [
        ("29", "dark, surreal", "2"),
        ("1", '"Pixar"', "7"),
        ("194", "NA", "7"),  # a tag like any other
    ]
    assert rows[0][3].timestamp() == 1445714994
    assert all(row[4] is None for row in rows[:3])
    assert [(*row[:4], round(row[4], 5)) for row in rows[3:]] == [
        ("1", "007", None, None, 0.02875),
        ("1", "toys", None, None, 0.9),
        ("11", "007", None, None, 1.0),
    ]


def test_who_only_tagged_is_a_user_too(tmp_path: Path, files: Path) -> None:
    path = files / "ml-25m" / "tags.csv"
    path.write_text(TAGS + "9,1,mine,1445714999\n")
    corpus = built(tmp_path, files, MovieLens25M(counts={**COUNTS, "tags": 6}))
    assert corpus.users["user_id"].to_pylist() == ["1", "2", "7", "9"]


def test_sets_without_genome(tmp_path: Path, files: Path) -> None:
    (files / "ml-25m").rename(files / "ml-32m")
    for name in ("genome-scores", "genome-tags"):
        (files / "ml-32m" / f"{name}.csv").unlink()
    corpus = built(tmp_path, files, MovieLens32M(counts=COUNTS | {"genome scores": 0}))
    assert corpus.card.counts["tags"] == 3


@pytest.mark.parametrize(
    ("name", "row", "line", "message"),
    [
        ("ratings", 2, "1,11,0.7,964981247", "none from 0.5 to 5"),
        ("ratings", 3, "2,29,5.0", "3 values where 4"),
        ("ratings", 4, "7,171,3.5,yesterday", "time"),
        ("genome-scores", 2, "1,3,0.9", "genome-tags.csv lists"),
        ("genome-scores", 3, "11,1,1.5", "relevance from 0 to 1"),
        ("genome-scores", 1, "1,1,", "relevance from 0 to 1"),
    ],
)
def test_spoilt_row_is_named(
    tmp_path: Path, files: Path, name: str, row: int, line: str, message: str
) -> None:
    path = files / "ml-25m" / f"{name}.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[row] = line  # row 0 is the header
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        built(tmp_path, files, MovieLens25M(counts=COUNTS))
    assert (caught.value.file, caught.value.row) == (str(path), row)
    assert not (tmp_path / "corpus").exists()


def test_an_unknown_film_is_an_error(tmp_path: Path, files: Path) -> None:
    with (files / "ml-25m" / "ratings.csv").open("a") as file:
        file.write("7,999,3.5,1445714837\n")
    with pytest.raises(DataError, match="unknown item") as caught:
        built(tmp_path, files, MovieLens25M(counts={}))
    assert (caught.value.row, caught.value.column) == (6, "movieId")


@pytest.mark.parametrize("source", [MovieLens25M(), MovieLens32M(), MovieLensLatestSmall()])
def test_published_counts_are_asked_for(tmp_path: Path, files: Path, source: MovieLensCsv) -> None:
    small = replace(source, folder="ml-25m")
    with pytest.raises(DataError, match=f"{source.title} has {source.counts['users']:,} users"):
        built(tmp_path, files, small)
    assert sources.get(source.name) == source
