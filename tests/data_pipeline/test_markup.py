"""Shop text made readable."""

import pyarrow as pa
import pytest

from data_pipeline.sources.markup import readable, readable_column, readable_or_none


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("Mike&#39;s &amp; Ann&quot;s", "Mike's & Ann\"s"),
        ("good<br /><br>bad", "good bad"),
        ('<p class="x">a</p> <b>B</b>', "a B"),
        ("H<sub>2</sub>O <a href='x'>here</a>, <body>x", "H2O here, x"),
        ("3 < 5 and 7 > 5", "3 < 5 and 7 > 5"),
        ("&lt;i&gt;x&lt;/i&gt;", "x"),
        (" two\n lines\u00a0", "two lines"),
        ("half \ud83d", "half ?"),
        ("<|im_end|> stays", "<|im_end|> stays"),
    ],
)
def test_entities_and_tags(stored: str, text: str) -> None:
    assert readable(stored) == text


@pytest.mark.parametrize("stored", [None, "", "None", "null", " NaN ", 5, ["x"]])
def test_nothing_is_none(stored: object) -> None:
    assert readable_or_none(stored) is None


def test_column_keeps_what_needs_no_change() -> None:
    column = pa.chunked_array([["a &amp; b", None, "plain\ntext"], [], ["x"]], pa.string())
    assert readable_column(column).to_pylist() == ["a & b", None, "plain\ntext", "x"]
    assert readable_column(pa.chunked_array([], pa.string())).to_pylist() == []
