"""MovieLens-1M in its own format: double colons, Latin-1, codes for ages and occupations."""

from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources.movielens_1m import OCCUPATIONS, MovieLens1M

COUNTS = {"users": 2, "films": 3, "rated films": 2, "ratings": 3}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "have" / "ml-1m"
    folder.mkdir(parents=True)
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::20::70072-1111\n")
    (folder / "movies.dat").write_bytes(
        "1::Toy Story (1995)::Animation|Children's|Comedy\n"
        "73::Misérables, Les (1995)::Drama|Musical\n"
        "260::Star Wars: Episode IV - A New Hope (1977)::Action\n".encode("latin-1")
    )
    (folder / "ratings.dat").write_text(
        "2::1::5::978824268\n1::73::3::978302109\n1::1::1::978300760\n"
    )
    return folder.parent


def test_files_become_a_corpus(tmp_path: Path, files: Path) -> None:
    source = MovieLens1M(counts=COUNTS)
    corpus = source.build(source.fetch(tmp_path / "cache", files), tmp_path / "corpus")
    assert corpus.items.to_pylist()[1:] == [
        {
            "item_id": "73",
            "title": "Les Misérables",
            "year": 1995.0,
            "genres": ["Drama", "Musical"],
        },
        {
            "item_id": "260",
            "title": "Star Wars: Episode IV - A New Hope",
            "year": 1977.0,
            "genres": ["Action"],
        },
    ]
    assert corpus.users.to_pylist() == [
        {
            "user_id": "1",
            "age": "under 18",
            "gender": "female",
            "occupation": "school student",
        },
        {"user_id": "2", "age": "56 or older", "gender": "male", "occupation": "writer"},
    ]
    assert [field.kind for field in corpus.card.user_fields] == ["category"] * 3
    assert corpus.events["item_id"].to_pylist() == ["1", "73", "1"]  # by user, then time
    assert corpus.time_E.tolist() == [978300760000, 978302109000, 978824268000]
    assert corpus.card.values == (1.0, 3.0, 5.0)


def test_there_is_a_word_for_every_code() -> None:
    assert len(OCCUPATIONS) == 21
    assert (OCCUPATIONS[0], OCCUPATIONS[20]) == ("other", "writer")


@pytest.mark.parametrize(
    ("name", "row", "line", "message"),
    [
        ("ratings.dat", 2, "1::73::6::978302109", "rating from 1 to 5"),
        ("ratings.dat", 3, "1::1::1", "has 3 values, expected 4"),
        ("users.dat", 1, "1::F::17::10::48067", "age band"),
        ("users.dat", 2, "2::M::56::21::70072", "occupation 0 to 20"),
        ("movies.dat", 3, "260::Star Wars (1977)", "has 2 values, expected 3"),
    ],
)
def test_spoilt_row_is_named(
    tmp_path: Path, files: Path, name: str, row: int, line: str, message: str
) -> None:
    path = files / "ml-1m" / name
    lines = path.read_text(encoding="latin-1").splitlines()
    lines[row - 1] = line
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    source = MovieLens1M(counts=COUNTS)
    with pytest.raises(DataError, match=message) as caught:
        source.build(source.fetch(tmp_path / "cache", files), tmp_path / "corpus")
    assert (caught.value.file, caught.value.row) == (str(path), row)
    assert not (tmp_path / "corpus").exists()


def test_published_counts_are_asked_for(tmp_path: Path, files: Path) -> None:
    source = MovieLens1M()
    with pytest.raises(DataError, match="MovieLens-1M has 6,040 users; these files have 2"):
        source.build(source.fetch(tmp_path / "cache", files), tmp_path / "corpus")
