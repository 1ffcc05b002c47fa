"""WANDS on small files in the published format: tabs, quotes where needed, empty values."""

from pathlib import Path

import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.wands import Wands

QUERIES = ["query_id\tquery\tquery_class", "0\tsalon chair\tMassage Chairs", "483\ttwig\t"]
PRODUCTS = [
    "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description"
    "\tproduct_features\trating_count\taverage_rating\treview_count",
    "0\tsolid wood platform bed\tBeds\tFurniture / Bedroom Furniture / Beds & Headboards"
    '\t"good , ""deep"" sleep\tand more"\tcapacityquarts:7|producttype : slow cooker|'
    "\t15.0\t4.5\t15.0",
    "7\tfletcher 27.5 '' wide armchair\tTeen Lounge Furniture|Accent Chairs\t\t\t\t\t\t",
]
LABELS = [
    "id\tquery_id\tproduct_id\tlabel",
    "0\t0\t7\tIrrelevant",
    "1\t0\t0\tPartial",
    "2\t483\t0\tIrrelevant",
    "3\t0\t7\tExact",  # judged again, otherwise
    "4\t483\t0\tIrrelevant",  # and the same
]


def write(folder: Path, name: str, lines: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    for name, lines in (("query", QUERIES), ("product", PRODUCTS), ("label", LABELS)):
        write(folder, f"{name}.csv", lines)
    return folder


def built(files: Path, folder: Path, **counts: int) -> Corpus:
    source = Wands(counts=counts)
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def test_judgements_become_a_corpus(tmp_path: Path, files: Path) -> None:
    # The folder above has them one level down.
    corpus = built(files.parent, tmp_path / "corpus", queries=2, items=2, judgements=5)
    queries, judgements = corpus.table("queries"), corpus.table("judgements")
    assert queries is not None
    assert judgements is not None
    assert queries.to_pylist() == [
        {"query_id": "0", "text": "salon chair"},
        {"query_id": "483", "text": "twig"},
    ]
    assert judgements.to_pylist() == [
        {"query_id": "0", "item_id": "0", "grade": 0.5, "label": "partial", "split": None},
        {"query_id": "483", "item_id": "0", "grade": 0.0, "label": "irrelevant", "split": None},
        {"query_id": "0", "item_id": "7", "grade": 1.0, "label": "exact", "split": None},
    ]
    assert corpus.card.counts["dropped_repeated_judgements"] == 2
    assert corpus.items.to_pylist() == [
        {
            "item_id": "0",
            "title": "solid wood platform bed",
            "classes": ["Beds"],
            "categories": ["Furniture", "Bedroom Furniture", "Beds & Headboards"],
            "description": 'good , "deep" sleep and more',
            "features": "capacityquarts: 7; producttype: slow cooker",
            "average_rating": 4.5,
            "ratings": 15.0,
            "reviews": 15.0,
        },
        {
            "item_id": "7",
            "title": "fletcher 27.5 '' wide armchair",
            "classes": ["Teen Lounge Furniture", "Accent Chairs"],
        }
        | {"categories": None, "description": None, "features": None}
        | dict.fromkeys(["average_rating", "ratings", "reviews"]),
    ]


def test_wrong_counts_are_refused(tmp_path: Path, files: Path) -> None:
    with pytest.raises(DataError, match="480 queries; these files have 2"):
        sources.fetch_corpus("wands", tmp_path / "a", cache_dir=tmp_path, from_dir=files)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "lines", "message", "row"),
    [
        ("label.csv", [*LABELS, "5\t0\t0\tPerfect"], "no such label", 6),
        ("label.csv", [*LABELS, "5\t0\t0"], "3 values", 6),
        ("product.csv", [*PRODUCTS, PRODUCTS[2]], "stands already in row 2", 3),
        ("product.csv", [*PRODUCTS, "8\tx\t\t\t\t\tmany\t\t"], "not a number", 3),
    ],
)
def test_spoilt_row_is_named(
    tmp_path: Path, files: Path, name: str, lines: list[str], message: str, row: int
) -> None:
    write(files, name, lines)
    with pytest.raises(DataError, match=message) as caught:
        built(files, tmp_path / "a")
    assert (caught.value.file, caught.value.row) == (str(files / name), row)


def test_judgement_of_an_unknown_query_is_refused(tmp_path: Path, files: Path) -> None:
    write(files, "label.csv", [*LABELS, "5\t99\t0\tExact"])
    with pytest.raises(DataError, match="query") as caught:
        built(files, tmp_path / "a")
    assert caught.value.value == "99"
