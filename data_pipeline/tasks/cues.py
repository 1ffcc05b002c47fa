"""The fixed words around answers and options."""

from typing import Final

ANSWER_CUE: Final = "Answer:"
TITLE_CUE: Final = "Title:"
QUERY: Final = "Query:"
TAG: Final = "Tag:"
FIELD: Final = "Field:"
OPTION: Final = "Option:"
"""Stands before an option that is answered by its name."""
