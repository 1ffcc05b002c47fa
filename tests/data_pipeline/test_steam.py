"""Steam on small files in the published format: Python literals, dates without years."""

from pathlib import Path
from typing import Any

import pytest
from packed_files import write_gz

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.sources.steam import Steam

GAMES: list[dict[str, Any]] = [
    {
        "publisher": "Kotoshiro",
        "genres": ["Action", "Indie"],
        "app_name": "Lost Summoner Kitty",
        "title": "Lost Summoner Kitty",
        "url": "http://store.steampowered.com/app/761140/",
        "release_date": "2018-01-04",
        "tags": ["Strategy", "Choose Your Own &amp; Adventure"],
        "discount_price": 4.49,
        "specs": ["Single-player"],
        "price": 4.99,
        "early_access": False,
        "id": "761140",
        "developer": "Kotoshiro",
        "sentiment": "Very Positive",
    },
    {"app_name": "Ironbound", "id": "643980", "price": "Free To Play", "release_date": "Soon.."},
    {"title": "Nobody's", "id": "1", "price": "Third-party"},
    {"app_name": "Without an id", "price": "Free Demo"},
]
REVIEWS: list[dict[str, Any]] = [
    {
        "username": "Chaos Syren",
        "hours": 0.1,
        "products": 41,
        "product_id": "761140",
        "page_order": 0,
        "date": "2017-12-17",
        "text": "This would not be\nacceptable <b>as</b> an entertainment; I <3 it",
        "early_access": False,
        "page": 1,
    },
    {
        "username": "₮ʜᴇ \ud83d",
        "product_id": "643980",
        "found_funny": 2,
        "user_id": "76561198072207162",
        "date": "2014-02-15",
        "text": "",
        "early_access": True,
        "page": 1,
        "compensation": "Product received for free",
    },
    {
        "username": "",
        "product_id": "999",
        "date": "2011-10-09",
        "text": "ok",
        "early_access": False,
    },
]
REVIEWS.append(dict(REVIEWS[0], page=2))  # the same review on two pages


def australian(user: str, *reviews: tuple[str, str, str, bool, str]) -> dict[str, Any]:
    names = ("item_id", "posted", "helpful", "recommend", "review")
    rows = [
        {"funny": "", "last_edited": "", **dict(zip(names, review, strict=True))}
        for review in reviews
    ]
    return {"user_id": user, "user_url": f"http://steamcommunity.com/id/{user}", "reviews": rows}


AUSTRALIAN = [
    australian(
        "76561197970982479",
        ("761140", "Posted November 5, 2011.", "No ratings yet", True, "Simple yet great."),
        ("643980", "Posted July 3.", "1,204 of 1,300 people (93%) found this review helpful",
         False, "It's \"fine\"."),
    ),
    australian("js41637"),
    australian("evcentric", ("999", "Posted December 31, 2015.",
                             "0 of 1 people (0%) found this review helpful", True, "")),
]  # fmt: skip
LIBRARIES = [
    {
        "user_id": "76561197970982479",
        "items_count": 2,
        "steam_id": "76561197970982479",
        "user_url": "http://steamcommunity.com/profiles/76561197970982479",
        "items": [
            {
                "item_id": "761140",
                "item_name": "Lost Kitty",
                "playtime_forever": 90,
                "playtime_2weeks": 0,
            },
            {
                "item_id": "20",
                "item_name": "Team Fortress Classic",
                "playtime_forever": 0,
                "playtime_2weeks": 0,
            },
        ],
    },
    {"user_id": "js41637", "items_count": 0, "steam_id": "1", "user_url": "", "items": []},
]
LIBRARIES.append(LIBRARIES[0])  # 684 people stand there twice


def built(
    folder: Path, variant: str, name: str, records: list[dict[str, Any]], **counts: int
) -> Corpus:
    write_gz(folder / "files" / "steam_games.json.gz", map(repr, GAMES))
    write_gz(folder / "files" / name, map(repr, records))
    source = Steam(variant=variant, counts={variant: counts})
    return source.build(source.fetch(folder / "cache", folder / "files"), folder / "corpus")


def reviews(folder: Path, records: list[dict[str, Any]], **counts: int) -> Corpus:
    return built(folder, "reviews", "steam_reviews.json.gz", records, **counts)


def test_reviews_with_hours(tmp_path: Path) -> None:
    corpus = reviews(tmp_path, REVIEWS, users=3, games=3, rows=4)
    assert corpus.card.has_times is True
    first, second, third = corpus.events.to_pylist()
    assert first["timestamp"].date().isoformat() == "2017-12-17"
    assert (first["hours"], first["early_access"]) == (0.1, "no")
    assert first["review"] == "This would not be acceptable as an entertainment; I <3 it"
    assert (second["user_id"], second["hours"], second["early_access"]) == ("₮ʜᴇ ?", None, "yes")
    assert second["review"] is None
    assert third["user_id"] == "unnamed"
    assert [field.name for field in corpus.card.event_fields] == [
        "hours",
        "early_access",
        "review",
    ]
    assert corpus.card.counts["dropped_duplicates"] == 1


def test_games_are_described_where_they_can_be(tmp_path: Path) -> None:
    corpus = reviews(tmp_path, REVIEWS)
    assert corpus.items.to_pylist() == [
        {
            "item_id": "761140",
            "title": "Lost Summoner Kitty",
            "genres": ["Action", "Indie"],
            "tags": ["Strategy", "Choose Your Own & Adventure"],
            "features": ["Single-player"],
            "developer": "Kotoshiro",
            "publisher": "Kotoshiro",
            "price": 4.99,
            "year": 2018.0,
        },
        {
            "item_id": "643980",
            "title": "Ironbound",
            "genres": None,
            "tags": None,
            "features": None,
            "developer": None,
            "publisher": None,
            "price": 0.0,
            "year": None,
        },
        {
            "item_id": "999",
            "title": "999",
            "genres": None,
            "tags": None,
            "features": None,
            "developer": None,
            "publisher": None,
            "price": None,
            "year": None,
        },
    ]


def test_australian_reviews_recommend(tmp_path: Path) -> None:
    corpus = built(
        tmp_path, "australian-reviews", "australian_user_reviews.json.gz", AUSTRALIAN, rows=3
    )
    found = [
        (row["item_id"], row["timestamp"].date().isoformat(), row["recommended"], row["helpful"])
        for row in corpus.events.to_pylist()
    ]
    assert found == [
        ("761140", "2011-11-05", "yes", None),
        ("643980", "2016-07-03", "no", 1204.0),  # the year that the last full date is before
        ("999", "2015-12-31", "yes", 0.0),
    ]
    assert corpus.events["review"].to_pylist() == ["Simple yet great.", 'It\'s "fine".', None]
    assert corpus.users["user_id"].to_pylist() == ["76561197970982479", "evcentric"]


def test_australian_playtime_has_no_times(tmp_path: Path) -> None:
    corpus = built(
        tmp_path, "australian-playtime", "australian_users_items.json.gz", LIBRARIES, rows=4
    )
    assert corpus.card.has_times is False
    found = [
        (row["item_id"], row["action"], row["hours"], row["timestamp"])
        for row in corpus.events.to_pylist()
    ]
    assert found == [("761140", "played", 1.5, None), ("20", "owned", 0.0, None)]
    assert corpus.items["title"].to_pylist() == ["Lost Summoner Kitty", "Team Fortress Classic"]
    assert corpus.card.counts["dropped_duplicates"] == 2


@pytest.mark.parametrize("change", [{"date": "17 December"}, {"date": None}, {"hours": "some"}])
def test_odd_record_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not the expected one") as caught:
        reviews(tmp_path, [REVIEWS[1], {**REVIEWS[0], **change}])
    assert caught.value.row == 2


def test_odd_date_of_an_australian_is_named(tmp_path: Path) -> None:
    odd = [australian("a", ("1", "Posted 5 Nov, 2011", "No ratings yet", True, "x"))]
    with pytest.raises(DataError, match="no day in 'Posted 5 Nov, 2011'"):
        built(tmp_path, "australian-reviews", "australian_user_reviews.json.gz", odd)


def test_part_of_the_reviews_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="steam-reviews has 5 rows; these files have 4"):
        reviews(tmp_path, REVIEWS, rows=5)
