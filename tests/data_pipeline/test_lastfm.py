"""Last.fm's three editions on small files in the published formats."""

import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import sources
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources import lastfm_hetrec
from data_pipeline.sources.lastfm import LastFM

MIDNIGHT_MADRID = 1_238_536_800_000  # 1 April 2009 there, 22:00 of the day before in UTC
ARTISTS = [
    "id\tname\turl\tpictureURL",
    "51\tDuran Duran\thttp://www.last.fm/music/Duran+Duran\thttp://userserve-ak.last.fm/a.jpg",
    '52\t"Weird Al" Yankovic\thttp://www.last.fm/music/W\thttp://userserve-ak.last.fm/b.jpg',
    "53\tKültür Shock\thttp://www.last.fm/music/K\t",
]
TAGS = ["tagID\ttagValue", "13\tchillout", "15\tfußball", "18\tchillout"]
PLAYS = ["userID\tartistID\tweight", "2\t51\t13883", "2\t52\t11690", "5\t51\t7"]
FRIENDS = ["userID\tfriendID", "2\t5", "5\t2"]
BY_DAY = [
    "userID\tartistID\ttagID\tday\tmonth\tyear",
    "2\t51\t13\t1\t4\t2009",
    "2\t51\t18\t1\t4\t2009",  # the same text by another number
    "5\t51\t13\t1\t4\t2009",
    "5\t52\t15\t1\t1\t1956",
    "5\t999\t13\t1\t4\t2009",
]
BY_TIME = [
    "userID\tartistID\ttagID\ttimestamp",
    f"2\t51\t13\t{MIDNIGHT_MADRID}",
    f"2\t51\t18\t{MIDNIGHT_MADRID}",
    f"5\t51\t13\t{MIDNIGHT_MADRID}",
    "5\t52\t15\t-441766800000",
    f"5\t999\t13\t{MIDNIGHT_MADRID}",
]
HETREC = {
    "users": 2,
    "artists": 3,
    "friendships": 1,
    "play counts": 3,
    "tags": 3,
    "tag assignments": 5,
}


def write(path: Path, lines: list[str], encoding: str = "utf-8", end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


def write_hetrec(folder: Path, **changed: list[str]) -> None:
    files = {"artists": ARTISTS, "user_artists": PLAYS, "user_friends": FRIENDS, **changed}
    for name, lines in files.items():
        write(folder / f"{name}.dat", lines, end="\r\n")
    write(folder / "tags.dat", TAGS, "latin-1", "\r\n")


def built(files: Path, folder: Path, variant: str, **counts: int) -> Corpus:
    source = LastFM(variant=variant, counts={variant: counts})
    return source.build(source.fetch(folder.parent / "cache", files), folder)


def rows(corpus: Corpus, name: str) -> list[dict[str, Any]]:
    table = corpus.table(name)
    assert table is not None
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_hetrec_has_plays_without_times_and_tags_with(tmp_path: Path) -> None:
    write_hetrec(tmp_path / "files", user_taggedartists=BY_DAY)
    corpus = built(tmp_path / "files", tmp_path / "corpus", "hetrec-2k", **HETREC)
    assert corpus.card.has_times is False
    assert corpus.items["title"].to_pylist() == [
        "Duran Duran",
        '"Weird Al" Yankovic',
        "Kültür Shock",
    ]
    assert corpus.users.to_pylist() == [
        {"user_id": "2", "friends": 1.0},
        {"user_id": "5", "friends": 1.0},
    ]
    assert [(row["item_id"], row["plays"]) for row in corpus.events.to_pylist()] == [
        ("51", 13883.0),
        ("52", 11690.0),
        ("51", 7.0),
    ]
    day = datetime(2009, 4, 1, tzinfo=UTC)
    found = [
        (row["item_id"], row["tag"], row["user_id"], row["timestamp"])
        for row in rows(corpus, "tags")
    ]
    assert found == [
        ("51", "chillout", "2", day),
        ("51", "chillout", "5", day),
        ("52", "fußball", "5", None),
    ]
    assert corpus.card.counts["dropped_tags_of_unknown_artists"] == 1


def test_hetrec_is_the_same_from_days_and_from_times(tmp_path: Path) -> None:
    write_hetrec(tmp_path / "days", user_taggedartists=BY_DAY)
    write_hetrec(tmp_path / "times", **{"user_taggedartists-timestamps": BY_TIME})
    found = [
        built(tmp_path / name, tmp_path / f"{name}-corpus", "hetrec-2k", **HETREC).fingerprint
        for name in ("days", "times")
    ]
    assert found[0] == found[1]


def test_hetrec_from_its_archive_and_without_first_lines(tmp_path: Path) -> None:
    bare = {"artists": ARTISTS[1:], "user_artists": ["//" + PLAYS[0], *PLAYS[1:]]}
    write_hetrec(tmp_path / "loose", **bare, **{"user_taggedartists-timestamps": BY_TIME})
    (tmp_path / "files").mkdir()
    with zipfile.ZipFile(tmp_path / "files" / "hetrec2011-lastfm-2k.zip", "w") as archive:
        for path in (tmp_path / "loose").iterdir():
            archive.write(path, path.name)
    corpus = built(tmp_path / "files", tmp_path / "corpus", "hetrec-2k", **HETREC)
    assert len(corpus.items) == 3


def test_hetrec_tag_on_enough_artists_is_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastfm_hetrec, "QUERY_ARTISTS", 2)
    taggings = [*BY_DAY, "2\t53\t18\t2\t4\t2009"]
    write_hetrec(tmp_path / "files", user_taggedartists=taggings)
    corpus = built(tmp_path / "files", tmp_path / "corpus", "hetrec-2k")
    assert rows(corpus, "queries") == [{"query_id": "13", "text": "chillout"}]
    assert [
        (row["query_id"], row["item_id"], row["grade"]) for row in rows(corpus, "judgements")
    ] == [("13", "51", 2.0), ("13", "53", 1.0)]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("user_artists", "5\t52\tmany", "not a number of plays"),
        ("user_artists", "5\t52", "not 3 values"),
        ("user_taggedartists", "5\t52\t15\t31\t2\t2009", "has no day"),
        ("user_taggedartists", "5\t52\t77\t1\t2\t2009", "not in tags.dat"),
    ],
)
def test_hetrec_mistake_is_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    lines = {"user_artists": PLAYS, "user_taggedartists": BY_DAY}
    lines[name] = [*lines[name], line]
    write_hetrec(tmp_path / "files", **lines)
    with pytest.raises(DataError, match=message) as caught:
        built(tmp_path / "files", tmp_path / "corpus", "hetrec-2k")
    assert caught.value.file == str(tmp_path / "files" / f"{name}.dat")


PLAYS_360K = [
    "00000c28\t3bd73256-3905-4f3a-97e2-8b341527f805\tbetty blowtorch\t2137",
    "00000c28\tf2fb0ff0-5679-42ec-a55c-15109ce6e320\tdie Ärzte\t1099",
    '00000c28\t\tmarié "doc" digby\t12',
    "00000c28\t3bd73256-3905-4f3a-97e2-8b341527f805\tbetty b.\t3",  # the same artist again
    "1111ab\t\t\t4",  # nobody
    "1111ab\t7ffd711a\t\t5",  # no name
    "sep 20, 2008\t3bd73256-3905-4f3a-97e2-8b341527f805\tbetty blowtorch\t12",
]
PROFILE_360K = [
    "00000c28\tf\t22\tGermany\tFeb 1, 2007",
    "1111ab\t\t-1337\t\tOct 30, 2005",
    "2222\tm\t\tMexico\tApr 27, 2005",
]


def write_360k(folder: Path) -> None:
    write(folder / "usersha1-artmbid-artname-plays.tsv", PLAYS_360K)
    write(folder / "usersha1-profile.tsv", PROFILE_360K)


def test_360k_has_counts_and_profiles(tmp_path: Path) -> None:
    write_360k(tmp_path / "files")
    counts = {"users": 3, "play counts": 7}
    corpus = built(tmp_path / "files", tmp_path / "corpus", "360k", **counts)
    assert corpus.card.has_times is False
    titles = {row["item_id"]: row["title"] for row in corpus.items.to_pylist()}
    assert titles == {
        "3bd73256-3905-4f3a-97e2-8b341527f805": "betty blowtorch",
        "f2fb0ff0-5679-42ec-a55c-15109ce6e320": "die Ärzte",
        'marié "doc" digby': 'marié "doc" digby',
        "7ffd711a": "7ffd711a",
    }
    assert corpus.users.to_pylist() == [
        {
            "user_id": "00000c28",
            "gender": "female",
            "age": 22.0,
            "country": "Germany",
            "registered": 2007.0,
        },
        {
            "user_id": "1111ab",
            "gender": None,
            "age": None,
            "country": None,
            "registered": 2005.0,
        },
        {
            "user_id": "sep 20, 2008",
            "gender": None,
            "age": None,
            "country": None,
            "registered": None,
        },
    ]
    assert corpus.events["plays"].to_pylist() == [2137.0, 1099.0, 12.0, 5.0, 12.0]
    assert corpus.card.counts["dropped_duplicates"] == 1
    assert corpus.card.counts["dropped_without_artist"] == 1


def test_360k_from_its_archive(tmp_path: Path) -> None:
    write_360k(tmp_path / "lastfm-dataset-360K")
    (tmp_path / "files").mkdir()
    with tarfile.open(tmp_path / "files" / "lastfm-dataset-360K.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "lastfm-dataset-360K", "lastfm-dataset-360K")
    assert len(built(tmp_path / "files", tmp_path / "corpus", "360k").users) == 3


@pytest.mark.parametrize("what", ["users", "play counts"])
def test_360k_of_another_size_is_refused(tmp_path: Path, what: str) -> None:
    write_360k(tmp_path / "files")
    with pytest.raises(DataError, match=f"lastfm-360k has 99 {what}"):
        built(tmp_path / "files", tmp_path / "corpus", "360k", **{what: 99})
    assert not (tmp_path / "corpus").exists()


LISTENS = [
    "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck Me Im Famous (Pacha Ibiza)",
    'user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t坂本龍一\tc605c224\t"Composition 0919',
    'user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t坂本龍一\tc605c224\t"Composition 0919',
    'user_000001\t2009-05-03T10:00:00Z\ta7f7df4a\t坂本龍一\tc605c224\t"Composition 0919',
    "user_000002\t2006-08-13T14:59:59Z\t\tLa'cryma Christi\t\t ",
]
PROFILE_1K = ["#id\tgender\tage\tcountry\tregistered", "user_000001\tm\t\tJapan\tAug 13, 2006"]


def test_1k_has_times_and_tracks(tmp_path: Path) -> None:
    folder = tmp_path / "files" / "lastfm-dataset-1K"
    write(folder / "userid-timestamp-artid-artname-traid-traname.tsv", LISTENS)
    write(folder / "userid-profile.tsv", PROFILE_1K)
    corpus = built(tmp_path / "files", tmp_path / "corpus", "1k", users=2, listenings=5)
    assert corpus.card.has_times is True
    assert corpus.items.to_pylist() == [
        {
            "item_id": "Deep Dish - Fuck Me Im Famous (Pacha Ibiza)",
            "title": "Fuck Me Im Famous (Pacha Ibiza)",
            "artist": "Deep Dish",
        },
        {"item_id": "c605c224", "title": '"Composition 0919', "artist": "坂本龍一"},
    ]
    assert [row["timestamp"].isoformat() for row in corpus.events.to_pylist()] == [
        "2009-05-03T10:00:00+00:00",
        "2009-05-04T13:54:10+00:00",
        "2009-05-04T23:08:57+00:00",
    ]
    assert corpus.users.to_pylist()[0]["gender"] == "male"
    assert corpus.card.counts["dropped_duplicates"] == 1
    assert corpus.card.counts["dropped_without_track"] == 1


def test_1k_time_that_is_none_is_named(tmp_path: Path) -> None:
    wrong = "user_000001\tyesterday\tf1b1cf71\tDeep Dish\t\tPacha"
    folder = tmp_path / "files"
    write(folder / "userid-timestamp-artid-artname-traid-traname.tsv", [LISTENS[0], wrong])
    write(folder / "userid-profile.tsv", PROFILE_1K)
    with pytest.raises(DataError, match="yesterday") as caught:
        built(folder, tmp_path / "corpus", "1k")
    assert caught.value.row == 2


def test_editions_are_named() -> None:
    assert sources.get("lastfm:1k") == LastFM(variant="1k")
    with pytest.raises(DataError, match="lastfm has no variant '360'") as caught:
        sources.get("lastfm:360")
    assert caught.value.remedy is not None
    assert "360k" in caught.value.remedy
