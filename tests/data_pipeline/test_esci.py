"""ESCI on small Parquet files with the published columns."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources import esci
from data_pipeline.sources.esci import Esci

# query_id, query, product, locale, label, small, large, split
EXAMPLES = [
    (0, " revent 80 cfm", "B1", "us", "I", 0, 1, "train"),
    (0, " revent 80 cfm", "B2", "us", "E", 0, 1, "train"),
    (5, "gafas &amp; sol", "B1", "es", "E", 1, 1, "train"),
    (1, "!awnmower tires", "B2", "us", "S", 1, 1, "test"),
    (1, "!awnmower tires", "B3", "us", "C", 1, 1, "test"),
    (9, "メンズ 靴", "B1", "jp", "E", 1, 1, "test"),
]
# product, title, description, bullet points, brand, color, locale
PRODUCTS: list[tuple[str | None, ...]] = [
    ("B1", "Fan", "<p>Quiet &amp; small.</p>", "80 CFM\nLED", "Panasonic", "White", "us"),
    ("B1", "Gafas", None, None, None, "Negro", "es"),
    ("B9", "Never judged", None, None, None, None, "us"),
    ("B2", "Tire", None, "4.10", "MARASTAR", None, "us"),
    ("B3", None, None, None, "", None, "us"),
    ("B1", "靴", None, None, None, None, "jp"),
]


def write_examples(path: Path, rows: list[tuple[Any, ...]]) -> None:
    names = ("query_id", "query", "product_id", "product_locale", "esci_label")
    names += ("small_version", "large_version", "split")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table({"example_id": list(range(len(rows))), **columns}), path)


def write_products(path: Path) -> None:
    names = ("product_id", "product_title", "product_description", "product_bullet_point")
    names += ("product_brand", "product_color", "product_locale")
    columns = zip(names, zip(*PRODUCTS, strict=True), strict=True)
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns})
    pq.write_table(table, path, row_group_size=2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    write_examples(folder / "shopping_queries_dataset_examples.parquet", EXAMPLES)
    write_products(folder / "shopping_queries_dataset_products.parquet")
    return folder


def built(files: Path, folder: Path, variant: str, **counts: int) -> Corpus:
    source = Esci(variant=variant, counts={variant: counts})
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def rows(corpus: Corpus, name: str) -> list[tuple[Any, ...]]:
    table = corpus.table(name)
    assert table is not None
    return [tuple(row.values()) for row in table.to_pylist()]


def test_large_version_of_a_locale(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus", "us", queries=2, judgements=4)
    assert corpus.card.name == "esci-us"
    assert rows(corpus, "queries") == [("0", "revent 80 cfm"), ("1", "!awnmower tires")]
    assert rows(corpus, "judgements") == [
        ("0", "B1", 0.0, "irrelevant", "train"),
        ("0", "B2", 1.0, "exact", "train"),
        ("1", "B2", pytest.approx(0.1), "substitute", "test"),
        ("1", "B3", pytest.approx(0.01), "complement", "test"),
    ]
    assert [tuple(row.values()) for row in corpus.items.to_pylist()] == [
        ("B1", "Fan", "Panasonic", "White", "80 CFM LED", "Quiet & small."),
        ("B2", "Tire", "MARASTAR", None, "4.10", None),
        ("B3", "B3", None, None, None, None),
    ]
    assert (len(corpus.users), len(corpus.events)) == (0, 0)


def test_small_version_and_other_locales(tmp_path: Path, files: Path) -> None:
    small = built(files, tmp_path / "a", "us-small", queries=1, judgements=2)
    assert small.items["item_id"].to_pylist() == ["B2", "B3"]
    spanish = built(files, tmp_path / "b", "es-small")
    assert rows(spanish, "queries") == [("5", "gafas & sol")]
    assert spanish.items["title"].to_pylist() == ["Gafas"]
    assert built(files, tmp_path / "c", "jp").items["title"].to_pylist() == ["靴"]


def test_wrong_counts_are_refused(tmp_path: Path, files: Path) -> None:
    with pytest.raises(DataError, match="29,844 queries; these files have 1"):
        sources.fetch_corpus("esci:us-small", tmp_path / "a", cache_dir=tmp_path, from_dir=files)
    with pytest.raises(DataError, match="3 judgements; these files have 4"):
        built(files, tmp_path / "a", "us", judgements=3)
    assert not (tmp_path / "a").exists()


def test_unknown_label_is_refused(tmp_path: Path, files: Path) -> None:
    path = files / "shopping_queries_dataset_examples.parquet"
    write_examples(path, [*EXAMPLES, (1, "!awnmower tires", "B1", "us", "X", 1, 1, "test")])
    with pytest.raises(DataError, match="no such label") as caught:
        built(files, tmp_path / "a", "us")
    assert (caught.value.file, caught.value.value) == (str(path), "X")


def test_judged_product_without_a_record_is_titled_by_its_id(tmp_path: Path, files: Path) -> None:
    path = files / "shopping_queries_dataset_examples.parquet"
    write_examples(path, [*EXAMPLES, (1, "!awnmower tires", "B7", "us", "E", 1, 1, "test")])
    assert built(files, tmp_path / "a", "us").items["title"].to_pylist()[-1] == "B7"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4a73\nsize 1\n", "pointer"),
        (b"PAR1 cut off", "cannot be read as Parquet"),
    ],
)
def test_file_that_is_none_is_refused(
    tmp_path: Path, files: Path, content: bytes, message: str
) -> None:
    path = files / "shopping_queries_dataset_products.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        built(files, tmp_path / "a", "us")
    assert caught.value.file == str(path)


def test_file_without_a_column_is_refused(tmp_path: Path, files: Path) -> None:
    path = files / "shopping_queries_dataset_examples.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["split"]), path)
    with pytest.raises(DataError, match="no such column") as caught:
        built(files, tmp_path / "a", "us")
    assert caught.value.column == "split"


def test_downloads_are_compared_with_the_repositorys_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def fetch_files(name: str, urls: dict[str, str], cache: Path, **more: Any) -> dict[str, Path]:
        asked.update(more, urls=urls)
        return {}

    monkeypatch.setattr(esci, "fetch_files", fetch_files)
    Esci(variant="us").fetch(tmp_path)
    assert asked["sha256"]["products"].startswith("25124442")
    assert asked["urls"]["examples"].endswith("/shopping_queries_dataset_examples.parquet")
