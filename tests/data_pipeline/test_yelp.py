"""The Yelp Open Dataset on small files in the published format."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.yelp import Yelp

BUSINESSES: list[dict[str, Any]] = [
    {
        "business_id": "Pns2l4eNsfO8kk83dixA6A",
        "name": "The Range At Lake Norman",
        "address": "10913 Bailey Rd",
        "city": "Cornelius",
        "state": "NC",
        "postal_code": "28031",
        "latitude": 35.4627242,
        "longitude": -80.8526119,
        "stars": 3.5,
        "review_count": 36,
        "is_open": 1,
        "attributes": {
            "BusinessAcceptsCreditCards": "True",
            "BusinessParking": "{'garage': False, 'street': False}",
            "RestaurantsPriceRange2": "3",
        },
        "categories": "Active Life, Gun/Rifle Ranges, Guns & Ammo, Shopping",
        "hours": {"Monday": "10:0-18:0"},
    },
    {
        "business_id": "mpf3x-BjTdTEA3yCZrAYPw",
        "name": "Café “Ñ”",
        "city": "Tucson",
        "state": "AZ",
        "stars": 4,
        "attributes": None,
        "categories": None,
        "hours": None,
    },
    {
        "business_id": "tUFrWirKiKi_TAnsVWINQQ",
        "name": "Target",
        "city": "Tucson",
        "state": "AZ",
        "attributes": {"RestaurantsPriceRange2": "None"},
        "categories": "Shopping",
    },
]


def review(user: str, business: int, stars: float, date: str, text: str) -> dict[str, Any]:
    return {
        "review_id": f"{user}{date}",
        "user_id": user,
        "business_id": BUSINESSES[business]["business_id"],
        "stars": stars,
        "useful": 2,
        "funny": 0,
        "cool": 0,
        "text": text,
        "date": date,
    }


REVIEWS = [
    review("mh_-eMZ6K5RLWhZyISBhwA", 0, 3.0, "2018-07-07 22:09:11", "Long\n\nwaiting."),
    review("OyoGAe7OKpv6SyGZT5g77Q", 1, 5.0, "2012-01-03 15:28:18", "Ñam"),
]
TIPS = [
    {
        "user_id": "OyoGAe7OKpv6SyGZT5g77Q",
        "business_id": "mpf3x-BjTdTEA3yCZrAYPw",
        "text": "Avengers time with the ladies.",
        "date": "2012-05-18 02:17:21",
        "compliment_count": 0,
    }
] * 2  # one of them twice
USERS = [
    {
        "user_id": "OyoGAe7OKpv6SyGZT5g77Q",
        "name": "Walker",
        "review_count": 585,
        "yelping_since": "2007-01-25 16:47:26",
        "useful": 7217,
        "elite": "2007",
        "friends": "NSCy54eWehBJyZdG2iE84w, pe42u7DcCH2QmI81NX-8qA",
        "average_stars": 3.91,
    }
]
FILES: dict[str, list[dict[str, Any]]] = {
    "business": BUSINESSES,
    "review": REVIEWS,
    "tip": TIPS,
    "user": USERS,
}
COUNTS = {"businesses": 3, "reviews": 2, "tips": 2, "users": 1}


def write(folder: Path, files: dict[str, list[dict[str, Any]]] = FILES) -> Path:
    folder.mkdir()
    for name, records in files.items():
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        (folder / f"yelp_academic_dataset_{name}.json").write_text(text, encoding="utf-8")
    return folder


def built(files: Path, folder: Path, counts: dict[str, int] = COUNTS) -> Corpus:
    source = Yelp(counts=counts)
    return source.build(source.fetch(folder / "cache", files), folder / "corpus")


def test_reviews_and_tips(tmp_path: Path) -> None:
    corpus = built(write(tmp_path / "files"), tmp_path)
    names = ("user_id", "action", "value", "helpful", "review")
    assert [tuple(row[name] for name in names) for row in corpus.events.to_pylist()] == [
        ("mh_-eMZ6K5RLWhZyISBhwA", "reviewed", 3.0, 2.0, "Long waiting."),
        ("OyoGAe7OKpv6SyGZT5g77Q", "reviewed", 5.0, 2.0, "Ñam"),
        ("OyoGAe7OKpv6SyGZT5g77Q", "tipped", None, None, "Avengers time with the ladies."),
    ]
    assert corpus.events["timestamp"][0].as_py().isoformat() == "2018-07-07T22:09:11+00:00"
    assert corpus.card.counts["dropped_duplicates"] == 1
    assert corpus.users.to_pylist() == [
        {"user_id": "mh_-eMZ6K5RLWhZyISBhwA", "member_since": None},
        {"user_id": "OyoGAe7OKpv6SyGZT5g77Q", "member_since": 2007.0},
    ]


def test_businesses(tmp_path: Path) -> None:
    corpus = built(write(tmp_path / "files"), tmp_path)
    found = {row.pop("item_id"): row for row in corpus.items.to_pylist()}
    assert found["Pns2l4eNsfO8kk83dixA6A"] == {
        "title": "The Range At Lake Norman",
        "categories": ["Active Life", "Gun/Rifle Ranges", "Guns & Ammo", "Shopping"],
        "city": "Cornelius",
        "state": "NC",
        "price_range": "expensive",
    }
    assert found["mpf3x-BjTdTEA3yCZrAYPw"]["title"] == "Café “Ñ”"
    assert found["mpf3x-BjTdTEA3yCZrAYPw"]["categories"] is None
    assert found["tUFrWirKiKi_TAnsVWINQQ"]["price_range"] is None


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("zipped", [False, True])
def test_from_its_archives(tmp_path: Path, mode: str, zipped: bool) -> None:
    files = write(tmp_path / "files")
    download = tmp_path / "download"
    download.mkdir()
    # The publisher's .tar is gzipped, whatever its name says.
    with tarfile.open(download / "yelp_dataset.tar", mode) as archive:  # type: ignore[call-overload]
        for path in files.iterdir():
            archive.add(path, path.name)
    if zipped:
        with zipfile.ZipFile(download / "Yelp-JSON.zip", "w") as outer:
            outer.write(download / "yelp_dataset.tar", "Yelp JSON/yelp_dataset.tar")
        (download / "yelp_dataset.tar").unlink()
    assert len(built(download, tmp_path).events) == 3


def test_without_files_it_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="agree to its terms") as caught:
        Yelp().fetch(tmp_path)
    assert caught.value.remedy is not None
    assert "--from" in caught.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="files of yelp are not there"):
        Yelp().fetch(tmp_path / "cache", tmp_path / "empty")


@pytest.mark.parametrize("what", sorted(COUNTS))
def test_another_release_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(DataError, match=f"yelp has 50 {what}"):
        built(write(tmp_path / "files"), tmp_path, {**COUNTS, what: 50})


def test_odd_date_is_named(tmp_path: Path) -> None:
    odd = [REVIEWS[0], {**REVIEWS[1], "date": "2012-01-03"}]
    with pytest.raises(DataError, match="date is not") as caught:
        built(write(tmp_path / "files", {**FILES, "review": odd}), tmp_path)
    assert (caught.value.row, caught.value.column) == (2, "date")
