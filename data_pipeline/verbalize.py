"""A record as text: items, profiles, ages, actions.

Every text made here is one *piece* of a prompt. Pieces meet only where every supported
pre-tokenizer splits, so that their ids can be joined without tokenizing again:

* a piece that ends a line carries the newline itself, and the next one starts with a visible
  character;
* inside a line a piece starts with a space and the one before it ends with a visible character.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from data_pipeline.corpus import Field

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

# (upper bound in ms, exclusive; words). Ages are words, not timestamps: 360Brew, table 1.
AGES: Final[tuple[tuple[int, str], ...]] = (
    (HOUR, "now"),
    (DAY, "today"),
    *((DAY * (days + 1), f"{days} day{'s' * (days > 1)}") for days in range(1, 7)),
    *((DAY * 7 * (weeks + 1), f"{weeks} week{'s' * (weeks > 1)}") for weeks in range(1, 4)),
    (DAY * 60, "1 month"),
    *((DAY * 30 * (months + 1), f"{months} months") for months in range(2, 12)),
    (DAY * 730, "1 year"),
    *((DAY * 365 * (years + 1), f"{years} years") for years in range(2, 10)),
    (2**62, "10 years"),
)
AGE_BOUNDS: Final = np.array([bound for bound, _ in AGES], dtype=np.int64)
HISTORY_CUE: Final = "History:\n"
GAPS_CUE: Final = "History, each with the time since the one before:\n"
"""The same above events that are dated by gaps instead of ages."""
UNTIMED: Final = "|"
"""Where a line of a history begins without an age: in a corpus without times."""

PERCENTILE_WORDS: Final = ("very low", "low", "medium", "high", "very high")


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How many whitespace-separated words, and characters, a field may take in a prompt."""

    title_words: int = 24
    field_words: int = 12
    characters: int = 240
    query_words: int = 64
    query_characters: int = 480
    tag_words: int = 8
    tag_characters: int = 80
    review_characters: int = 1200
    """Of a review's beginning; its tokens are then counted."""
    review_tokens: int = 128
    sentence_tokens: int = 24
    """Of a review's first sentence."""


# The categories Cc, Zl and Zp of Unicode: they hold these characters and, by its rules, no others.
_BREAKS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


_SENTENCE_ENDS: Final = re.compile(
    r"""[.!?\u2026\u3002\uff01\uff1f]+["'\u201d\u2019)\]]*(?=\s|$)"""
)


def clean(text: str, *, words: int, characters: int) -> str:
    """One line of visible text within its budget; `(unknown)` where nothing is left.

    Control and separator characters become spaces, so no text from data can end a line of the
    prompt. Emoji and anything that only looks like a control token stay as they are.
    """
    kept = " ".join(_BREAKS.sub(" ", text).split()[:words])[:characters].strip()
    return kept or "(unknown)"


def clean_beginning(text: str, characters: int) -> str:
    """One line of visible text, cut behind a word where that is possible; perhaps empty."""
    # No more words are split than can be kept: a text may be a book.
    kept = " ".join(_BREAKS.sub(" ", text[: 4 * characters]).split())
    if len(kept) <= characters:
        return kept
    end = kept.rfind(" ", 1, characters + 1)
    return kept[: end if end > 0 else characters]


def first_sentence(text: str) -> str:
    """The beginning of a line up to where a sentence ends, of two words at least; else all of it.

    One word, as in `Wow!` or `Dr.`, says too little to stand alone.
    """
    for end in _SENTENCE_ENDS.finditer(text):
        if " " in text[: end.start()].strip():
            return text[: end.end()]
    return text


class NumberWords:
    """Percentile words for one numeric field, fitted on values known at training time.

    Numbers written as digits lose precision as text; percentile words keep their order
    (LinkedIn retrieval, arXiv 2510.14223).
    """

    def __init__(self, values: Sequence[float] | np.ndarray) -> None:
        known = np.asarray(values, dtype=np.float64)
        known = known[np.isfinite(known)]
        shares = np.linspace(0, 1, len(PERCENTILE_WORDS) + 1)[1:-1]
        self.cuts = np.quantile(known, shares) if len(known) else np.empty(0)

    def __call__(self, value: float) -> str:
        """Return the word with the raw value behind it, as in `high (41)`."""
        word = PERCENTILE_WORDS[int(np.searchsorted(self.cuts, value, side="right"))]
        return f"{word} ({value:g})"


class Verbalizer:
    """Turns rows of a corpus into pieces of text.

    `numbers` maps the name of a numeric field to its fitted words.
    """

    def __init__(
        self,
        item_fields: Sequence[Field],
        user_fields: Sequence[Field],
        numbers: Mapping[str, NumberWords],
        budget: Budget,
    ) -> None:
        self.item_fields = tuple(item_fields)
        self.user_fields = tuple(user_fields)
        self.numbers = dict(numbers)
        self.budget = budget

    def bare_title(self, row: Mapping[str, Any]) -> str:
        """Return the title alone, as in `Toy Story`."""
        return clean(
            str(row["title"]), words=self.budget.title_words, characters=self.budget.characters
        )

    def title(self, row: Mapping[str, Any]) -> str:
        """Return the title with the year, where there is one: `Toy Story (1995)`."""
        years = [row[f.name] for f in self.item_fields if f.kind == "year"]
        known = [f"{year:.0f}" for year in years if _known(year)]
        return " ".join([self.bare_title(row), *(f"({year})" for year in known[:1])])

    def record(self, row: Mapping[str, Any], style: str) -> str:
        """Return an item as one line: title, year, fields, in the given style."""
        named = [
            (f.name, self._value(f, row[f.name]))
            for f in self.item_fields
            if _known(row[f.name]) and (f.kind != "year" or style == "labelled")
        ]
        if style == "plain":
            return " | ".join([self.title(row), *(value for _, value in named)])
        return " | ".join(
            [f"title: {self.bare_title(row)}", *(f"{name}: {value}" for name, value in named)]
        )

    def profile(self, row: Mapping[str, Any]) -> str:
        """Return a user's known fields as one line, or `unknown`."""
        known = [
            f"{f.name} {self._value(f, row[f.name])}"
            for f in self.user_fields
            if _known(row[f.name])
        ]
        return " | ".join(known) or "unknown"

    def query(self, text: str) -> str:
        """Return what was typed."""
        budget = self.budget
        return clean(text, words=budget.query_words, characters=budget.query_characters)

    def tag(self, text: str) -> str:
        """Return a tag."""
        return clean(text, words=self.budget.tag_words, characters=self.budget.tag_characters)

    def review(self, text: str) -> str:
        """Return the beginning of what a user wrote; empty where nothing is visible."""
        return clean_beginning(text, self.budget.review_characters)

    def sentence(self, text: str) -> str:
        """Return the first sentence of what a user wrote; empty where nothing is visible."""
        return first_sentence(self.review(text))

    def _value(self, field: Field, value: Any) -> str:
        if field.kind == "year":
            return f"{value:.0f}"
        if field.kind == "number":
            return self.numbers[field.name](value)
        parts = value if field.kind == "categories" else [value]
        joined = ", ".join(str(part) for part in parts)
        return clean(joined, words=self.budget.field_words, characters=self.budget.characters)


def since_text(milliseconds: int) -> str:
    """Return the line that says how long ago a history's last event was."""
    words = AGES[int(np.searchsorted(AGE_BOUNDS, milliseconds, side="right"))][1]
    short = {"now": "under an hour", "today": "under a day"}
    return f"Time since the last one: {short.get(words, words)}\n"


def action_text(action: str, value: float | None) -> str:
    """Return what the user did, as in `rated 4` or `clicked`."""
    words = clean(action, words=6, characters=60)
    return words if value is None else f"{words} {value:g}"


def _known(value: Any) -> bool:
    if value is None or value == "" or value == []:
        return False
    return not (isinstance(value, float) and not np.isfinite(value))
