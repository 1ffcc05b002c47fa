"""Files packed as publishers pack them."""

import gzip
from collections.abc import Iterable
from pathlib import Path


def write_gz(path: Path, lines: Iterable[str]) -> Path:
    """A .gz with one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path
