"""KuaiRec on small files in the published format, with its broken captions and lost times."""

import zipfile
from pathlib import Path

import pytest

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.kuairec import KuaiRec

HEADER = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
BIG = [
    HEADER,
    "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.2733965215790926",
    "0,9598,13665,10984,2020-07-05 00:13:41.297,20200705,1593879221.297,1.2440823015294975",
    "0,9598,13665,10984,2020-07-05 00:13:41.297,20200706,1593879221.297,1.2440823015294975",
    "7,3649,0,10867,2020-07-06 00:08:23,20200706,1593965303.0,0.0",
]
SMALL = [
    HEADER,
    "14,148,4381,6067,2020-07-05 05:27:48.378,20200705.0,1593898068.378,0.7221031811438932",
    "14,183,11635,6100,,,,1.9073770491803278",
]
CATEGORIES = ["video_id,feat", "148,[8]", '183,"[27, 9]"', "3649,[11]", "9598,[26]"]
CAPTIONS = [
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,"
    "first_level_category_name,second_level_category_id,second_level_category_name,"
    "third_level_category_id,third_level_category_name",
    "148,UNKNOWN,,[],8,颜值,673,颜值随拍,-124,UNKNOWN",
    '183,搞笑,"#搞笑 太难了, ""真的"" @阿 ","[搞笑,段子]",9,搞笑,136,搞笑段子,0,UNKNOWN',
    "3649,UNKNOWN,first half of",  # a line end inside a text that is not in quotes
    "its caption,[],11,美食,1,UNKNOWN,0,UNKNOWN",
    "9598,封面,UNKNOWN,[],26,时尚,1,UNKNOWN,0,UNKNOWN",
]
USERS = [
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
    "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
    "friend_user_num_range,register_days,register_days_range,onehot_feat0",
    '0,high_active,0,0,1,5,"(0,10]",0,0,0,0,107,61-90,0',
    "7,UNKNOWN,0,-124,0,10,500+,4,0,2,0,327,181-365,1",
    "14,full_active,0,1,1,2,1,4,0,2,0,327,181-365,",
]
FRIENDS = ["user_id,friend_list", '3371,"[2975, 7]"', '7,"[4202, 7126]"', "0,[14]"]
FILES = {
    "big_matrix": BIG,
    "small_matrix": SMALL,
    "item_categories": CATEGORIES,
    "kuairec_caption_category": CAPTIONS,
    "user_features": USERS,
    "social_network": FRIENDS,
}
COUNTS = {
    "big": {"users": 2, "videos": 2, "watches": 4},
    "small": {"users": 1, "videos": 2, "watches": 2},
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "KuaiRec 2.0" / "data"
    folder.mkdir(parents=True)
    for name, lines in FILES.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def built(files: Path, folder: Path, variant: str) -> Corpus:
    source = KuaiRec(variant=variant, counts=COUNTS)
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def test_big_matrix(tmp_path: Path, files: Path) -> None:
    corpus = built(files, tmp_path / "corpus", "big")
    found = [
        (row["user_id"], row["item_id"], row["timestamp"].isoformat(), row["watch_ratio"])
        for row in corpus.events.to_pylist()
    ]
    assert found == [
        ("0", "3649", "2020-07-04T16:08:23.438000+00:00", 1.2733965215790926),
        ("0", "9598", "2020-07-04T16:13:41.297000+00:00", 1.2440823015294975),
        ("7", "3649", "2020-07-05T16:08:23+00:00", 0.0),
    ]
    assert corpus.card.counts["dropped_duplicates"] == 1
    assert corpus.card.actions == ("watched",)
    assert corpus.items.to_pylist() == [
        {
            "item_id": "3649",
            "title": "video 3649",
            "category": None,
            "subcategory": None,
            "topic": None,
            "hashtags": None,
            "content_tags": ["tag 11"],
            "duration": 10.867,
            "cover_text": None,
        },
        {
            "item_id": "9598",
            "title": "封面",
            "category": "时尚",
            "subcategory": None,
            "topic": None,
            "hashtags": [],
            "content_tags": ["tag 26"],
            "duration": 10.984,
            "cover_text": "封面",
        },
    ]
    assert corpus.users.to_pylist() == [
        {
            "user_id": "0",
            "active_degree": "high_active",
            "streams_live": "no",
            "posts_videos": "yes",
            "follows": 5.0,
            "followers": 0.0,
            "friends_in_app": 0.0,
            "days_registered": 107.0,
            "friends": 1.0,
        },
        {
            "user_id": "7",
            "active_degree": None,
            "streams_live": None,
            "posts_videos": "no",
            "follows": 10.0,
            "followers": 4.0,
            "friends_in_app": 2.0,
            "days_registered": 327.0,
            "friends": 2.0,
        },
    ]


def test_small_matrix_without_lost_times(tmp_path: Path, files: Path) -> None:
    corpus = built(files.parent, tmp_path / "corpus", "small")
    assert corpus.card.has_times is True
    assert corpus.events["item_id"].to_pylist() == ["148"]
    assert corpus.card.counts["dropped_missing_times"] == 1
    rows = {row["item_id"]: row for row in corpus.items.to_pylist()}
    assert rows["148"]["title"] == "video 148"
    assert rows["183"]["title"] == '#搞笑 太难了, "真的" @阿'
    assert rows["183"]["content_tags"] == ["tag 27", "tag 9"]
    assert rows["183"]["hashtags"] == ["搞笑", "段子"]
    assert (rows["148"]["category"], rows["148"]["topic"]) == ("颜值", None)


def test_from_its_archive(tmp_path: Path, files: Path) -> None:
    (tmp_path / "download").mkdir()
    with zipfile.ZipFile(tmp_path / "download" / "KuaiRec.zip", "w") as archive:
        for path in files.iterdir():
            archive.write(path, f"KuaiRec 2.0/data/{path.name}")
    assert len(built(tmp_path / "download", tmp_path / "corpus", "big").events) == 3


def test_other_sizes_and_values_are_refused(tmp_path: Path, files: Path) -> None:
    path = files / "big_matrix.csv"
    path.write_text("\n".join(BIG[:-1]) + "\n")
    with pytest.raises(DataError, match="kuairec-big has 2 users; these files have 1"):
        built(files, tmp_path / "corpus", "big")
    path.write_text("\n".join([*BIG, "7,148,0,10867,,20200706,1593965303.0,much"]) + "\n")
    with pytest.raises(DataError, match="not a number") as caught:
        built(files, tmp_path / "corpus", "big")
    assert (caught.value.row, caught.value.column) == (5, "watch_ratio")
