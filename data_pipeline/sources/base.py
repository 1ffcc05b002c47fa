"""What a public dataset must offer to be fetched by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from data_pipeline.corpus import Corpus

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, where the server says it, the bytes in all."""

Paths = Mapping[str, Path]
"""Role ("events", "items", "users") -> file."""


class Source(ABC):
    """A public dataset: where its files come from, and how they become a corpus."""

    name: str
    """What a user types."""

    licence: str
    """What may be done with the data, in a sentence with its address."""

    @abstractmethod
    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        """Bring the files here, verified; what is in the cache is not downloaded again.

        Args:
            cache_dir: downloads stay here.
            from_dir: a folder with files that the user has already; nothing is downloaded then.
            progress: told about the download.

        Raises:
            DataError: the files cannot be had, or are not the expected ones.
        """

    @abstractmethod
    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        """Turn the fetched files into a corpus.

        Raises:
            DataError: a file is not what its dataset's is.
        """
