"""Text as people read it, out of text as shops store it."""

import html
import re

import pyarrow as pa
import pyarrow.compute as pc

# Only what looks like an element: "3 < 5 > 2" is none.
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_INLINE_TAG = re.compile(r"</?(?:a|b|em|font|i|span|strong|sub|sup|u)(?:\s[^<>]*)?>", re.IGNORECASE)
_NOTHING = frozenset(("", "none", "null", "nan", "n/a"))


def readable(text: str) -> str:
    """Entities become their characters, tags that break lines and runs of white space one space.

    "Mike&#39;s<br><b>BIG</b>&nbsp;mug" -> "Mike's BIG mug"
    """
    # Half characters, which JSON can spell and no file can hold, become question marks.
    whole = html.unescape(text).encode(errors="replace").decode()
    return " ".join(_TAG.sub(" ", _INLINE_TAG.sub("", whole)).split())


def readable_or_none(value: object) -> str | None:
    """A stored value as readable text; None where the shop had none, or wrote "None"."""
    text = readable(value) if isinstance(value, str) else ""
    return None if text.lower() in _NOTHING else text


def readable_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same for a column, touching only rows that have entities or tags."""
    return pa.chunked_array([_readable_array(chunk) for chunk in column.chunks], pa.string())


def _readable_array(array: pa.Array) -> pa.Array:
    is_marked = pc.fill_null(pc.match_substring_regex(array, "[&<]"), False)
    if not pc.any(is_marked).as_py():
        return array
    texts = [readable(text) for text in array.filter(is_marked).to_pylist()]
    return pc.replace_with_mask(array, is_marked, pa.array(texts, pa.string()))
