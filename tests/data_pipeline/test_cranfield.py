"""Cranfield on small files in the published format, with its slips of the typist."""

import tarfile
from pathlib import Path

import pytest

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.cranfield import Cranfield

ABSTRACTS = """.I 1
.T
experimental investigation of the aerodynamics of a
wing in a slipstream .
.A
brenckman,m.
.B
j. ae. scs. 25, 1958, 324.
.W
experimental investigation of the aerodynamics of a
wing in a slipstream .
  an experimental study of a wing
.A
in a propeller slipstream was made .
.W
and more .
.I 2
.T
.A
.B
.W
.I 3
.T
waves in supersonic flow .
.A
.B
.W
in this chapter we shall consider waves .
.I
"""
QUESTIONS = [
    ".I 001",
    ".W",
    "what similarity laws must be obeyed when constructing aeroelastic models",
    "of heated high speed aircraft .",
    ".I 004",
    ".W",
    "what problems of heat conduction have been solved .",
]
JUDGEMENTS = ["1 3 1", "1 1  4 ", "2 1 2 ", "2 2 3", "2 3 -1"]
COUNTS = {"abstracts": 3, "questions": 2, "judgements": 5}


def write(folder: Path, judgements: list[str] = JUDGEMENTS, abstracts: str = ABSTRACTS) -> Path:
    folder.mkdir()
    (folder / "cran.all.1400").write_text(abstracts)
    (folder / "cran.qry").write_bytes("".join(f"{line}\r\n" for line in QUESTIONS).encode())
    (folder / "cranqrel").write_text("".join(f"{line}\n" for line in judgements))
    return folder


def built(files: Path, folder: Path, counts: dict[str, int] = COUNTS) -> Corpus:
    source = Cranfield(counts=counts)
    return source.build(source.fetch(folder / "cache", files), folder / "corpus")


def test_abstracts(tmp_path: Path) -> None:
    corpus = built(write(tmp_path / "files"), tmp_path)
    assert corpus.items.to_pylist() == [
        {
            "item_id": "1",
            "title": "experimental investigation of the aerodynamics of a wing in a slipstream .",
            "abstract": "an experimental study of a wing in a propeller slipstream was made . "
            "and more .",
            "authors": "brenckman,m.",
            "reference": "j. ae. scs. 25, 1958, 324.",
        },
        {
            "item_id": "2",
            "title": "paper 2",
            "abstract": None,
            "authors": None,
            "reference": None,
        },
        {
            "item_id": "3",
            "title": "waves in supersonic flow .",
            "abstract": "in this chapter we shall consider waves .",
            "authors": None,
            "reference": None,
        },
    ]


def test_judgements_count_questions_and_grade_upwards(tmp_path: Path) -> None:
    corpus = built(write(tmp_path / "files"), tmp_path)
    queries, judgements = corpus.table("queries"), corpus.table("judgements")
    assert queries is not None
    assert judgements is not None
    texts = dict(zip(*(queries[name].to_pylist() for name in ("query_id", "text")), strict=True))
    assert texts == {
        "1": "what similarity laws must be obeyed when constructing aeroelastic models "
        "of heated high speed aircraft .",
        "2": "what problems of heat conduction have been solved .",  # .I 004
    }
    names = ("query_id", "item_id", "grade", "label")
    assert [tuple(row[name] for name in names) for row in judgements.to_pylist()] == [
        ("1", "3", 4.0, "complete answer"),
        ("1", "1", 1.0, "minimum interest"),
        ("2", "1", 3.0, "high degree of relevance"),
        ("2", "2", 2.0, "useful as background"),
    ]
    assert corpus.card.counts["dropped_unexplained_judgements"] == 1


def test_from_its_archive(tmp_path: Path) -> None:
    files = write(tmp_path / "files")
    (tmp_path / "download").mkdir()
    with tarfile.open(tmp_path / "download" / "cran.tar.gz", "w:gz") as archive:
        for path in files.iterdir():
            archive.add(path, path.name)
    assert len(built(tmp_path / "download", tmp_path).items) == 3


@pytest.mark.parametrize("row", ["3 1 2", "1 4 2", "1 1 5", "1 1", "0 1 2", "1 0 2"])
def test_odd_judgement_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError, match="question, abstract, grade") as caught:
        built(write(tmp_path / "files", [*JUDGEMENTS, row]), tmp_path)
    assert (caught.value.row, caught.value.value) == (6, row)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cranfield has 1,400 abstracts; these files have 3"):
        built(write(tmp_path / "files"), tmp_path, {"abstracts": 1_400})
    with pytest.raises(DataError, match="no section of a record") as caught:
        built(write(tmp_path / "html", abstracts="\n<html>\n"), tmp_path)
    assert caught.value.row == 2
