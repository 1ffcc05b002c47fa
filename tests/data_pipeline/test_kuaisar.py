"""KuaiSAR on small files in the published format: words as numbers, sessions numbered again."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.kuaisar import KuaiSAR

T = 1_684_742_000_000  # 22 May 2023
REC = [
    "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,"
    "search_item_related",
    f"1,10,60792.0,45400.0,2023-05-22 15:53:20,{T + 500}.0,1,0,1,1,0,0",
    f"1,11,0.0,0.0,2023-05-22 15:54:20,{T + 900}.0,0,0,0,0,1,1",
    f"1,11,0.0,0.0,2023-05-22 15:54:20,{T + 900}.0,0,0,0,0,1,1",
    "2,10,500.0,1000.0,2023-05-22 15:54:20,1.684742e+12,1,1,0,0,0,0",
]
SRC = [
    "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,"
    "search_source,item_id,click_cnt,item_type",
    f'1,1,2023-05-22 21:58:52,{T}.0,"[20, 34, 3]",USER_INPUT,10,0,VIDEO',
    f'1,1,2023-05-22 21:58:52,{T}.0,"[20, 34, 3]",USER_INPUT,12,0,VIDEO',
    f'1,1,2023-05-22 21:58:52,{T}.0,"[20, 34, 3]",USER_INPUT,12,2,VIDEO',  # shown twice
    f"1,1,2023-05-23 21:58:52,{T + 86_400_000}.0,[7],RELATED,10,1,VIDEO",  # another session
    f"2,9,2023-05-22 21:58:52,{T}.0,[],USER_INPUT,10,1,USER",
]
LEVEL = "{0}_level_category_id,{0}_level_category_name,{0}_level_category_name_en"
ITEMS = [
    "item_id,caption,author_id,item_type,upload_time,upload_type,"
    + ",".join(LEVEL.format(ordinal) for ordinal in ("first", "second", "third", "fourth")),
    '10,"[1, 213, 24]",10,NORMAL,2023-04-22,LongImport,9,搞笑,Funny,136,搞笑段子,Funny joke,'
    "0,空,empty,0,空,empty",
    "11,[],0,UNKNOWN,1970-01-01,UNKNOWN,0,空,empty,0,空,empty,0,空,empty,0,空,empty",
    f'13,"{list(range(200))}",3,AD,2023-04-22,PHOTO,0,空,empty,0,空,empty,0,空,empty,0,空,empty',
]
USERS = [
    "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2",
    "2,3,5,0,7",
    "1,0,2,1,2",
    "3,1,1,1,1",
]
FOLLOWS = ["user_id,user_follow_id", "1,2", "1,3"]
FILES = {
    "rec_inter": REC,
    "src_inter": SRC,
    "item_features": ITEMS,
    "user_features": USERS,
    "social_network": FOLLOWS,
}
COUNTS = {"small": {"users": 2, "recommendations": 4, "search results": 5}}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "KuaiSAR_final"
    folder.mkdir()
    for name, lines in FILES.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def built(files: Path, folder: Path, counts: dict[str, int] | None = None) -> Corpus:
    source = KuaiSAR(variant="small", counts={"small": counts} if counts else COUNTS)
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def seconds(row: dict[str, Any]) -> float:
    return round(float(row["timestamp"].timestamp()) - T / 1000, 3)


def test_labels_become_actions(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus")
    found = [
        (row["user_id"], row["item_id"], row["action"], row["watch_ratio"], seconds(row))
        for row in corpus.events.to_pylist()
    ]
    assert sorted(found, key=str) == [
        ("1", "10", "clicked", 60792 / 45400, 0.5),
        ("1", "10", "followed", None, 0.5),
        ("1", "10", "liked", None, 0.5),
        ("1", "11", "searched", None, 0.9),
        ("1", "11", "skipped", None, 0.9),
        ("2", "10", "clicked", 0.5, 0.0),
        ("2", "10", "forwarded", None, 0.0),
    ]
    assert corpus.card.counts["dropped_duplicates"] == 2


def test_searches_and_their_queries(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus")
    queries, searches = corpus.table("queries"), corpus.table("searches")
    assert queries is not None
    assert searches is not None
    assert queries.to_pylist() == [
        {"query_id": "20 34 3", "text": "20 34 3"},
        {"query_id": "7", "text": "7"},
    ]
    found = [
        (row["query_id"], row["item_id"], row["action"], seconds(row))
        for row in searches.to_pylist()
    ]
    assert found == [
        ("20 34 3", "10", "skipped", 0.0),
        ("20 34 3", "12", "clicked", 0.0),
        ("7", "10", "clicked", 86_400.0),
    ]
    requests = searches["request_id"].to_pylist()
    assert requests[0] == requests[1] != requests[2]
    assert set(searches["position"].to_pylist()) == {None}
    assert corpus.card.counts["dropped_searches_without_words"] == 1
    assert corpus.card.counts["dropped_repeated_results"] == 1


def test_items_and_users(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus")
    items = {row["item_id"]: row for row in corpus.items.to_pylist()}
    assert items["10"] == {
        "item_id": "10",
        "title": "1 213 24",
        "category": "Funny",
        "subcategory": "Funny joke",
        "topic": None,
        "subtopic": None,
        "author": "10",
        "kind": "NORMAL",
    }
    assert items["11"]["title"] == "video 11"
    assert (items["11"]["author"], items["11"]["kind"]) == (None, None)
    assert items["12"]["title"] == "12"  # a search result that nobody describes
    assert items["13"]["title"] == " ".join(map(str, range(64)))
    assert corpus.users.to_pylist() == [
        {
            "user_id": "1",
            "search_active_level": "0",
            "rec_active_level": "2",
            "onehot_feat1": "1",
            "onehot_feat2": "2",
            "follows": 2.0,
        },
        {
            "user_id": "2",
            "search_active_level": "3",
            "rec_active_level": "5",
            "onehot_feat1": "0",
            "onehot_feat2": "7",
            "follows": 0.0,
        },
    ]


def test_from_its_archive(tmp_path: Path, files: Path) -> None:
    (tmp_path / "download").mkdir()
    with zipfile.ZipFile(tmp_path / "download" / "KuaiSAR.zip", "w") as archive:
        for path in files.iterdir():
            archive.write(path, f"KuaiSAR_final/{path.name}")
    assert len(built(tmp_path / "download", tmp_path / "corpus").users) == 2


def test_the_other_release_is_refused(tmp_path: Path, files: Path) -> None:
    counts = {"users": 2, "recommendations": 4, "search results": 6}
    with pytest.raises(DataError, match="kuaisar-small has 6 search results"):
        built(files, tmp_path / "corpus", counts)
    assert [path.name for path in tmp_path.iterdir()] == ["KuaiSAR_final"]
