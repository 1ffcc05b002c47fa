"""The guide's own files and mappings run as printed."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.audit import audit
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.mapping import (
    EventsConfig,
    FileConfig,
    ImportConfig,
    ItemsConfig,
    load_mapping,
)
from data_pipeline.sources.mapping_tables import (
    JudgementColumnsConfig,
    LinkColumnsConfig,
    LinksConfig,
    QueryColumnsConfig,
    SearchColumnsConfig,
    SearchesConfig,
    TagColumnsConfig,
    TagsConfig,
)
from data_pipeline.sources.tables import import_tables
from data_pipeline.splits import SplitConfig

GUIDE = Path(__file__).resolve().parents[2] / "launch" / "guides" / "prepare-your-data.md"
BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every file that the guide prints, and Parquet logs where a mapping expects them."""
    for _, name, content in BLOCK.findall(GUIDE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "logs").mkdir()
    for month, skus in enumerate((["tea-1", "tea-2", "tea-1"], ["gone", "tea-2"])):
        times = [1_700_000_000_000 + month * 10**9 + (row // 2) * 1000 for row in range(len(skus))]
        rows = {"uid": ["a"] * len(skus), "sku": skus, "ts": times, "page_view": [7] * len(skus)}
        pq.write_table(pa.table(rows), tmp_path / "logs" / f"2024-{month}.parquet")
    return tmp_path


def imported(folder: Path, name: str) -> Corpus:
    return import_tables(folder / name, folder / "corpus")


def test_every_yaml_of_the_guide_is_valid_and_runs(folder: Path) -> None:
    mappings = sorted(folder.glob("*.yaml"))
    assert [path.name for path in mappings] == [
        "large.yaml",
        "log-only.yaml",
        "search.yaml",
        "shop.yaml",
    ]
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("```yaml") == len(mappings), "a YAML of the guide has no file name"
    for path in mappings:
        corpus = import_tables(path, folder / path.stem)
        audit(corpus, SplitConfig(method="leave_last")).to_markdown()


def test_first_import(folder: Path) -> None:
    corpus = imported(folder, "shop.yaml")
    assert corpus.card.actions == ("bought", "rated", "viewed")
    assert corpus.card.counts == {"items": 3, "users": 2, "events": 5}
    assert corpus.items.to_pylist()[0] == {
        "item_id": "tea-1",
        "title": "Sencha, first flush",
        "category": ["tea", "green"],
        "price": 12.5,
        "year": 2021.0,
    }
    assert corpus.users.to_pylist()[1] == {"user_id": "ключ", "age": None, "plan": "plus"}


def test_log_only(folder: Path) -> None:
    assert imported(folder, "log-only.yaml").items["title"][0].as_py() == "tea-1"


def test_large(folder: Path) -> None:
    counts = imported(folder, "large.yaml").card.counts
    assert counts["events"] == 4
    assert counts["dropped_unknown_ids"] == 1


def test_search(folder: Path) -> None:
    corpus = imported(folder, "search.yaml")
    assert corpus.card.counts == {
        "items": 3,
        "users": 2,
        "events": 2,
        "queries": 2,
        "judgements": 3,
        "searches": 3,
        "tags": 2,
        "links": 1,
    }
    assert corpus.events["review"].to_pylist() == ["Keeps warm, looks good", "Too strong for me"]
    rows = {name: corpus.table(name) for name in ("queries", "searches", "tags", "links")}
    assert [row["text"] for row in rows["queries"].to_pylist()] == ["green tea", "mug"]  # type: ignore[union-attr]
    assert rows["searches"]["position"].to_pylist() == [1.0, 2.0, 1.0]  # type: ignore[index]
    assert rows["tags"]["user_id"].to_pylist() == ["007", None]  # type: ignore[index]
    assert rows["links"]["relation"].to_pylist() == ["also_bought"]  # type: ignore[index]


def test_without_times(folder: Path) -> None:
    mapping = (folder / "search.yaml").read_text(encoding="utf-8")
    untimed = mapping.replace("timestamp: ts, value", "timestamp: null, value")
    (folder / "search.yaml").write_text(untimed, encoding="utf-8")
    corpus = imported(folder, "search.yaml")
    assert not corpus.card.has_times


def test_error_is_the_one_that_the_guide_shows(folder: Path) -> None:
    events = (folder / "events.csv").read_text(encoding="utf-8")
    (folder / "events.csv").write_text(events.replace("mug-9", "mug-8", 1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        imported(folder, "shop.yaml")
    shown = " ".join(str(caught.value).replace(str(folder), "/home/me/shop").split())
    assert shown in " ".join(GUIDE.read_text(encoding="utf-8").split())


def test_guide_names_every_key(folder: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    configs = (
        *(ImportConfig, FileConfig, EventsConfig, ItemsConfig, SearchesConfig, TagsConfig),
        *(LinksConfig, JudgementColumnsConfig, SearchColumnsConfig, TagColumnsConfig),
        *(QueryColumnsConfig, LinkColumnsConfig),
    )
    for config in configs:
        for key in config.__dataclass_fields__:
            assert f"`{key}`" in text, f"the guide does not explain {key} of {config.__name__}"


def test_defaults_are_those_of_the_guide(folder: Path) -> None:
    config = load_mapping(folder / "log-only.yaml")
    assert config.item_noun == "item"
    assert config.events is not None
    assert (config.events.timestamp_unit, config.events.duplicates) == ("auto", "error")
    assert (config.events.unknown_ids, config.events.quote) == ("error", '"')
