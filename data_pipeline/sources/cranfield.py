"""Cranfield: 1,400 abstracts on aerodynamics, 225 questions, and which abstracts answer them.

A collection to check search on: it has no users and no events. Grades are turned around, so that
higher is more relevant as everywhere in a corpus: 4 for a complete answer (1 in the file) down to 1
for minimum interest (4 in the file).

C. W. Cleverdon, "The Cranfield tests on index language devices", Aslib Proceedings 19(6), 1967.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.archives import fetch_archive, open_text
from data_pipeline.sources.assembly import check_counts
from data_pipeline.sources.base import Paths, Progress, Source

_FILES = {"items": "cran.all.1400", "queries": "cran.qry", "judgements": "cranqrel"}
_SECTIONS = {".T": "title", ".A": "authors", ".B": "reference", ".W": "abstract"}
_LABELS = {
    1: "complete answer",
    2: "high degree of relevance",
    3: "useful as background",
    4: "minimum interest",
}
# So the Glasgow copy marks one abstract per question, by its look the paper that the question came
# from, and says nowhere what it means: left out.
_UNEXPLAINED = "-1"
_FIELDS = tuple(Field(name=name, kind="text") for name in ("abstract", "authors", "reference"))


@dataclass(frozen=True, kw_only=True)
class Cranfield(Source):
    """The Cranfield 1400 test collection."""

    name: str = "cranfield"
    licence: str = (
        "none is named; public since the 1960s, kept by the University of Glasgow "
        "(ir.dcs.gla.ac.uk/resources/test_collections/cran)"
    )
    homepage: str = "http://ir.dcs.gla.ac.uk/resources/test_collections/cran/"
    url: str = "http://ir.dcs.gla.ac.uk/resources/test_collections/cran/cran.tar.gz"
    md5: str | None = "1730f7be572d95a5a4b56c59a7b900a5"
    counts: Mapping[str, int] = field(
        default_factory=lambda: {"abstracts": 1_400, "questions": 225, "judgements": 1_837}
    )

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        return fetch_archive(
            self.name,
            self.url,
            self.cache(cache_dir),
            members=_FILES,
            md5=self.md5,
            from_dir=from_dir,
            progress=progress,
        )

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        abstracts = _records(paths["items"])
        questions = _records(paths["queries"])
        judged = _judgements(paths["judgements"], len(questions), len(abstracts))
        found = {
            "abstracts": len(abstracts),
            "questions": len(questions),
            "judgements": len(judged),
        }
        check_counts(self.name, found, self.counts, paths["items"].parent)
        graded = [row for row in judged if row[2] is not None]
        return write_corpus(
            folder,
            name=self.name,
            items=_items(abstracts),
            # Judgements number the questions by their order, not by the ids that the file gives.
            queries=pa.table(
                {
                    "query_id": [str(number) for number in range(1, len(questions) + 1)],
                    "text": [question.get("abstract", "") for question in questions],
                }
            ),
            judgements=pa.table(
                {
                    "query_id": [row[0] for row in graded],
                    "item_id": [row[1] for row in graded],
                    "grade": pa.array([5.0 - (row[2] or 0) for row in graded], pa.float32()),
                    "label": [_LABELS[row[2] or 0] for row in graded],
                }
            ),
            item_fields=_FIELDS,
            item_noun="paper",
            source=f"Cranfield 1400, {self.homepage}",
            licence=self.licence,
            dropped={"unexplained_judgements": len(judged) - len(graded)},
            overwrite=overwrite,
        )


def _records(path: Path) -> list[dict[str, str]]:
    """Records of ".I number" with sections ".T", ".A", ".B", ".W", in this order.

    A section's mark in a later place is a slip of the typist and no mark: three abstracts have one.
    An ".I" without a number ends the file.
    """
    records: list[dict[str, str]] = []
    order = list(_SECTIONS)
    with open_text(path) as file:
        lines = [line.rstrip() for line in file]
    place = len(order)
    for number, line in enumerate(lines, start=1):
        if re.fullmatch(r"\.I \d+", line):
            records.append({"id": line.removeprefix(".I ")})
            place = -1
        elif line in order and place < order.index(line):
            place = order.index(line)
        elif line in (*order, ".I", ""):
            continue
        elif not records or place < 0:
            raise DataError(
                "the text belongs to no section of a record",
                file=path,
                row=number,
                value=line,
                remedy="is it a file of the Cranfield collection? Fetch it again",
            )
        else:
            section = _SECTIONS[order[place]]
            records[-1][section] = f"{records[-1].get(section, '')} {line.strip()}".strip()
    return records


def _items(abstracts: list[dict[str, str]]) -> pa.Table:
    """Two of the papers have neither title nor text; an abstract begins with its title."""
    columns: dict[str, list[str | None]] = {
        name: [] for name in ("item_id", "title", *(field.name for field in _FIELDS))
    }
    for record in abstracts:
        title = record.get("title")
        abstract = record.get("abstract")
        if title and abstract:
            abstract = abstract.removeprefix(title).strip() or None
        values = {**record, "item_id": record["id"], "abstract": abstract}
        values["title"] = title or f"paper {record['id']}"
        for name, column in columns.items():
            column.append(values.get(name))
    return pa.table(columns)


def _judgements(
    path: Path, n_questions: int, n_abstracts: int
) -> list[tuple[str, str, int | None]]:
    """Question by order, abstract by number, grade; None where the grade is unexplained."""
    found = []
    with open_text(path) as file:
        rows = [line.split() for line in file if line.strip()]
    for number, row in enumerate(rows, start=1):
        is_row = len(row) == 3 and row[0].isdigit() and row[1].isdigit()
        is_row = is_row and 1 <= int(row[0]) <= n_questions and 1 <= int(row[1]) <= n_abstracts
        if not is_row or row[2] not in ("1", "2", "3", "4", _UNEXPLAINED):
            raise DataError(
                "the row is not 'question, abstract, grade from 1 to 4'",
                file=path,
                row=number,
                value=" ".join(row),
                remedy="is it the file cranqrel of the collection? Fetch it again",
            )
        grade = None if row[2] == _UNEXPLAINED else int(row[2])
        found.append((str(int(row[0])), str(int(row[1])), grade))
    return found
