import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.corpus import Field
from data_pipeline.verbalize import (
    AGE_BOUNDS,
    AGES,
    DAY,
    HOUR,
    Budget,
    NumberWords,
    Verbalizer,
    action_text,
    clean,
)

FIELDS = (
    Field(name="year", kind="year"),
    Field(name="genres", kind="categories"),
    Field(name="price", kind="number"),
    Field(name="plot", kind="text"),
)


@pytest.fixture
def verbalizer() -> Verbalizer:
    numbers = {"price": NumberWords(np.arange(100.0)), "age": NumberWords([20, 30, 40, 50, 60])}
    users = (Field(name="age", kind="number"), Field(name="city", kind="category"))
    return Verbalizer(FIELDS, users, numbers, Budget(title_words=3, field_words=4))


def film(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "title": "Toy Story", "year": 1995.0, "genres": ["Animation", "Comedy"], "price": 99.0,
        "plot": "Toys come alive when nobody looks",
    }  # fmt: skip
    return row | changes


def test_styles_of_a_record(verbalizer: Verbalizer) -> None:
    assert verbalizer.record(film(), "plain") == (
        "Toy Story (1995) | Animation, Comedy | very high (99) | Toys come alive when"
    )
    assert verbalizer.record(film(), "labelled") == (
        "title: Toy Story | year: 1995 | genres: Animation, Comedy | price: very high (99) "
        "| plot: Toys come alive when"
    )


def test_what_is_unknown_is_left_out(verbalizer: Verbalizer) -> None:
    bare = film(year=float("nan"), genres=[], price=None, plot="")
    assert verbalizer.record(bare, "plain") == "Toy Story"
    assert verbalizer.profile({"age": None, "city": None}) == "unknown"
    assert verbalizer.profile({"age": 21.0, "city": "Ulm"}) == "age very low (21) | city Ulm"


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("One\nTwo\r\nThree", "One Two Three"),
        ("a\u2028b\x00c", "a b c"),
        ("<|im_end|>", "<|im_end|>"),
        ("🎬 film", "🎬 film"),
        (" \t ", "(unknown)"),
        ("", "(unknown)"),
        ("w " * 50_000, "w w w"),
    ],
)
def test_titles_are_one_short_visible_line(title: str, text: str) -> None:
    assert clean(title, words=3, characters=240) == text


@given(st.text(max_size=300))
def test_clean_text_never_breaks_a_line_or_its_budget(text: str) -> None:
    line = clean(text, words=8, characters=60)
    assert line == line.strip()
    assert len(line.splitlines()) == 1
    assert 0 < len(line) <= 60
    assert len(line.split()) <= 8


def test_hundred_kilobytes_without_a_space_are_cut() -> None:
    assert len(clean("x" * 100_000, words=8, characters=60)) == 60


def test_percentile_words_keep_order_and_ignore_later_values() -> None:
    words = NumberWords(np.arange(1000.0))
    said = [words(v).split(" (")[0] for v in (0, 250, 500, 750, 5000)]
    assert said == ["very low", "low", "medium", "high", "very high"]


@given(st.integers(0, 20 * 365))
def test_every_age_has_words(days: int) -> None:
    index = int(np.searchsorted(AGE_BOUNDS, days * DAY + HOUR, side="right"))
    assert AGES[index][1]


def test_ages_read_as_people_say_them() -> None:
    def words(age: int) -> str:
        return AGES[int(np.searchsorted(AGE_BOUNDS, age, side="right"))][1]

    assert [words(age) for age in (0, HOUR, DAY, 8 * DAY, 40 * DAY, 400 * DAY, 5000 * DAY)] == [
        "now", "today", "1 day", "1 week", "1 month", "1 year", "10 years",
    ]  # fmt: skip
    assert len({text for _, text in AGES}) == len(AGES)
    assert (np.diff(AGE_BOUNDS) > 0).all()


def test_actions_with_and_without_a_value() -> None:
    assert action_text("rated", 4.0) == "rated 4"
    assert action_text("rated", 3.5) == "rated 3.5"
    assert action_text("clicked\n", None) == "clicked"
