"""The one exception that bad data raises."""

from os import PathLike


class DataError(ValueError):
    """Data that cannot be used: says what was found, where, and what to do about it.

    Args:
        message: what is wrong and why it cannot work, one sentence.
        file: the file or folder it was found in.
        row: 1-based data row of that file (a header line is not counted).
        column: column of that file.
        value: the offending value, shown shortened.
        remedy: what the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | PathLike[str] | None = None,
        row: int | None = None,
        column: str | None = None,
        value: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.row = row
        self.column = column
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        place = [self.file] if self.file is not None else []
        if self.row is not None:
            place.append(f"row {self.row}")
        if self.column is not None:
            place.append(f"column '{self.column}'")
        text = f"{', '.join(place)}: {self.message}" if place else self.message
        if self.value is not None:
            text += f" (value: {_shown(self.value)})"
        if self.remedy is not None:
            text += f"\nRemedy: {self.remedy}"
        return text


def _shown(value: object, limit: int = 80) -> str:
    """A value as it can stand in a message: a 100 kB title must not fill the terminal."""
    text = repr(value)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters)"
