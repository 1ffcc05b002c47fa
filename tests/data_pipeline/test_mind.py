"""MIND on small files in the published format."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources import mind
from data_pipeline.sources.mind import DEV_STARTS, Mind
from data_pipeline.splits import Phase, SplitConfig, split_corpus

ENTITY = '[{"Label": "Prince Philip", "Type": "P", "WikidataId": "Q80976", "Confidence": 1.0}]'
NEWS = {
    "N1": ("lifestyle", "royals", 'The "Brands" Queen Elizabeth Swears By', "", ENTITY, "[]"),
    "N2": ("news", "newsus", "It&#39;s late", "A late one.", "[]", ENTITY),
    "N3": ("sports", "nfl", "Goal", "", "[]", "[]"),
    "N4": ("sports", "nfl", "Only in dev", "", "[]", "[]"),
}
TRAIN = [
    "1\tU2\t11/11/2019 9:05:58 AM\tN3 N1 N2\tN1-1 N2-0 N3-0",
    "2\tU1\t11/9/2019 12:00:10 AM\t\tN2-1 N3-0",
    "3\tU2\t11/11/2019 9:05:58 AM\tN3 N1 N2\tN2-0",  # within a second, the same article
    "4\tU2\t11/10/2019 11:59:59 PM\tN3 N1 N2\tN3-1",
]
DEV = [
    "1\tU3\t11/15/2019 12:00:01 AM\tN1\tN4-1 N1-0",
    "2\tU2\t11/15/2019 1:00:00 PM\tN3 N1 N2\tN4-0 N2-1",
]
COUNTS = {"train impressions": 4, "dev impressions": 2, "train news": 3, "dev news": 2}


def news_lines(*ids: str) -> list[str]:
    def line(news_id: str) -> str:
        category, subcategory, title, abstract, *entities = NEWS[news_id]
        url = f"https://assets.msn.com/labs/mind/{news_id}.html"
        return "\t".join([news_id, category, subcategory, title, abstract, url, *entities])

    return [line(news_id) for news_id in ids]


def write_split(folder: Path, behaviors: list[str], news: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviors.tsv").write_text("".join(f"{line}\n" for line in behaviors))
    (folder / "news.tsv").write_text("".join(f"{line}\n" for line in news))
    (folder / "entity_embedding.vec").write_text("Q80976\t0.1\t0.2\t\n")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_split(tmp_path / "files" / "MINDsmall_train", TRAIN, news_lines("N1", "N2", "N3"))
    write_split(tmp_path / "files" / "MINDsmall_dev", DEV, news_lines("N4", "N1"))
    return tmp_path / "files"


def built(files: Path, folder: Path, counts: dict[str, int] | None = None) -> Corpus:
    source = Mind(variant="small", counts={"small": counts or {}})
    return source.build(source.fetch(folder.parent / "cache", files), folder)


BEGINS = 1_573_257_610_000  # 9 November 2019, 0:00:10


def test_impressions_become_requests(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus", COUNTS)
    assert corpus.card.actions == ("clicked", "skipped")
    assert corpus.card.item_noun == "article"
    events = [row for row in corpus.events.to_pylist() if row["request_id"] is not None]
    assert [
        (row["user_id"], row["item_id"], row["action"], row["request_id"]) for row in events
    ] == [
        ("U2", "N3", "clicked", "train-4"),
        ("U2", "N1", "clicked", "train-1"),
        ("U2", "N2", "skipped", "train-1"),
        ("U2", "N3", "skipped", "train-1"),
        ("U2", "N4", "skipped", "dev-2"),
        ("U2", "N2", "clicked", "dev-2"),
        ("U1", "N2", "clicked", "train-2"),
        ("U1", "N3", "skipped", "train-2"),
        ("U3", "N4", "clicked", "dev-1"),
        ("U3", "N1", "skipped", "dev-1"),
    ]
    assert corpus.card.counts["dropped_duplicates"] == 1
    times = [int(row["timestamp"].timestamp() * 1000) for row in events]
    assert times[-4] == BEGINS
    assert [time >= DEV_STARTS for time in times] == [
        row["request_id"].startswith("dev") for row in events
    ]


def test_the_dev_day_is_the_published_test(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus")
    split = split_corpus(corpus, SplitConfig(method="published", validation_share=0.2))
    requests = corpus.events["request_id"].to_pylist()
    for phase, request in zip(split.phase_E, requests, strict=True):
        assert (phase == Phase.TEST) == (request or "").startswith("dev")
    assert (split.phase_E == Phase.VALIDATION).any()


def test_earlier_clicks_stand_in_order_before_the_log(tmp_path: Path, files: Path) -> None:
    """Also those of a reader whom only the last day shows: they are as old as all others."""
    corpus = built(files, tmp_path / "corpus")
    earlier = [row for row in corpus.events.to_pylist() if row["request_id"] is None]
    found = [
        (row["user_id"], row["item_id"], int(row["timestamp"].timestamp() * 1000) - BEGINS)
        for row in earlier
    ]
    assert found == [
        ("U2", "N3", -3_000),
        ("U2", "N1", -2_000),
        ("U2", "N2", -1_000),
        ("U3", "N1", -1_000),
    ]
    assert {row["action"] for row in earlier} == {"clicked"}


def test_history_that_changes_is_refused(tmp_path: Path, files: Path) -> None:
    """It would hold clicks of the log itself, and putting them before it would be a leak."""
    changed = [*TRAIN, "5\tU2\t11/12/2019 9:05:58 AM\tN3 N1 N2 N1\tN2-1"]
    write_split(files / "MINDsmall_train", changed, news_lines("N1", "N2", "N3"))
    with pytest.raises(DataError, match="history is another") as caught:
        built(files, tmp_path / "a")
    assert caught.value.row == 5
    assert caught.value.file == str(files / "MINDsmall_train" / "behaviors.tsv")


def test_articles_of_both_files_once(tmp_path: Path, files: Path) -> None:
    assert built(files, tmp_path / "corpus").items.to_pylist() == [
        {
            "item_id": "N1",
            "title": 'The "Brands" Queen Elizabeth Swears By',
            "category": "lifestyle",
            "subcategory": "royals",
            "entities": ["Prince Philip"],
            "abstract": None,
        },
        {
            "item_id": "N2",
            "title": "It's late",
            "category": "news",
            "subcategory": "newsus",
            "entities": ["Prince Philip"],
            "abstract": "A late one.",
        },
        {"item_id": "N3", "title": "Goal", "category": "sports", "subcategory": "nfl"}
        | {"entities": None, "abstract": None},
        {"item_id": "N4", "title": "Only in dev", "category": "sports", "subcategory": "nfl"}
        | {"entities": None, "abstract": None},
    ]


@pytest.mark.parametrize("what", COUNTS)
def test_wrong_counts_are_refused(tmp_path: Path, files: Path, what: str) -> None:
    with pytest.raises(DataError, match=rf"has 9 {what}; these files have {COUNTS[what]}"):
        built(files, tmp_path / "a", COUNTS | {what: 9})
    assert not (tmp_path / "a").exists()


def test_published_counts_are_the_default(tmp_path: Path, files: Path) -> None:
    with pytest.raises(DataError, match=r"mind-small has [\d,]+ train"):
        sources.fetch_corpus("mind:small", tmp_path / "a", cache_dir=tmp_path, from_dir=files)


@pytest.mark.parametrize(
    ("line", "message", "column"),
    [
        ("5\tU1\t2019-11-11 09:05\t\tN1-1", "the time is not", "time"),
        ("5\tU1\t11/11/2019 9:05:58 AM\t\tN1 N2", "not a list of article-1", "impressions"),
        ("5\tU1\t11/11/2019 9:05:58 AM\t\t", "not a list of article-1", "impressions"),
        ("5\tU1\t11/11/2019 9:05:58 AM\t", "has 4 values", None),
    ],
)
def test_spoilt_impression_is_named(
    tmp_path: Path, files: Path, line: str, message: str, column: str | None
) -> None:
    write_split(files / "MINDsmall_train", [*TRAIN, line], news_lines("N1", "N2", "N3"))
    with pytest.raises(DataError, match=message) as caught:
        built(files, tmp_path / "a")
    assert caught.value.file == str(files / "MINDsmall_train" / "behaviors.tsv")
    assert (caught.value.row, caught.value.column) == (5, column)


def test_spoilt_article_is_named(tmp_path: Path, files: Path) -> None:
    lines = news_lines("N1", "N2", "N3")
    lines[1] = lines[1].replace('"Label"', '"Lable"')
    write_split(files / "MINDsmall_train", TRAIN, lines)
    with pytest.raises(DataError, match="entities") as caught:
        built(files, tmp_path / "a")
    assert (caught.value.row, caught.value.column) == (2, "abstract_entities")


def test_article_that_nobody_describes_is_refused(tmp_path: Path, files: Path) -> None:
    write_split(files / "MINDsmall_dev", DEV, news_lines("N1"))
    with pytest.raises(DataError, match="unknown item") as caught:
        built(files, tmp_path / "a")
    assert caught.value.value == "N4"


@pytest.mark.parametrize("names", [("train", "dev"), ("train", "valid")])
def test_unpacked_folders_may_be_called_otherwise(
    tmp_path: Path, files: Path, names: tuple[str, str]
) -> None:
    for old, new in zip(("MINDsmall_train", "MINDsmall_dev"), names, strict=True):
        (files / old).rename(files / new)
    assert len(built(files, tmp_path / "corpus", COUNTS).items) == 4


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("is_download", [True, False])
def test_archives_with_and_without_a_folder(
    tmp_path: Path,
    files: Path,
    nested: bool,
    is_download: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies of the archives differ in this."""
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("MINDsmall_train", "MINDsmall_dev"):
        with zipfile.ZipFile(packed / f"{name}.zip", "w") as archive:
            for path in (files / name).iterdir():
                archive.write(path, f"{name}/{path.name}" if nested else path.name)
    asked: list[str] = []

    def download(url: str, target: Path, **_: Any) -> Path:
        asked.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((packed / target.name).read_bytes())
        return target

    monkeypatch.setattr(mind, "download", download)
    source = Mind(variant="small", counts={"small": COUNTS})
    paths = source.fetch(tmp_path / "cache", None if is_download else packed)
    assert set(asked) == (
        {f"{source.url}/MINDsmall_{split}.zip" for split in mind.SPLITS} if is_download else set()
    )
    assert len(source.build(paths, tmp_path / "corpus").items) == 4
    assert source.fetch(tmp_path / "cache", None if is_download else packed) == paths
    assert len(asked) == 2 * is_download  # the second time from the cache
    assert not list((tmp_path / "cache").rglob("*.zip"))


def test_folder_with_one_of_the_two_files_is_refused(tmp_path: Path, files: Path) -> None:
    (files / "MINDsmall_dev").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"nor MINDsmall_\w+\.zip") as caught:
        Mind(variant="small").fetch(tmp_path / "cache", files)
    assert caught.value.file == str(files)


def test_archive_that_is_none_is_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, target: Path, **_: Any) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"<html>please log in</html>")
        return target

    monkeypatch.setattr(mind, "download", download)
    with pytest.raises(DataError, match="not the expected one"):
        Mind(variant="small").fetch(tmp_path)
    assert not list(tmp_path.rglob("*.zip"))


def test_archive_that_cannot_be_had_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(url: str, target: Path, **_: Any) -> Path:
        asked.append(url)
        raise DataError("the server is not reachable", file=url)

    monkeypatch.setattr(mind, "download", download)
    with pytest.raises(DataError, match="not reachable"):
        Mind(variant="small").fetch(tmp_path)
    assert len(asked) == 1
