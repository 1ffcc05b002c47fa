"""The fixed words around answers and options."""

from typing import Final

ANSWER_CUE: Final = "Answer:"
TITLE_CUE: Final = "Title:"
TEXT_CUE: Final = "Text:"
TASTE: Final = "Taste:"
"""Stands before a summary that is shown in place of a history."""
QUERY: Final = "Query:"
TAG: Final = "Tag:"
FIELD: Final = "Field:"
OPTION: Final = "Option:"
"""Stands before an option that is answered by its name."""
