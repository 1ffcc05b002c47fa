"""What a public dataset must offer to be fetched by name."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, where the server says it, the bytes in all."""

Paths = Mapping[str, Path]
"""Role ("events", "items", "users") -> file."""

_SHOWN_VARIANTS = 12


class Source(ABC):
    """A public dataset: where its files come from, and how they become a corpus.

    Usually a frozen dataclass whose attributes are fields with defaults. One with variants has
    `variant` among its fields: `amazon-2023:Office_Products` has `variant="Office_Products"`.
    """

    name: str
    """What a user types."""

    licence: str
    """What may be done with the data, in a sentence with its address."""

    homepage: str
    """Where the publisher describes the data."""

    variants: tuple[str, ...] = ()
    """What may stand behind the name and a colon; with "" among them, nothing need stand there."""

    variant: str = ""
    """The one of `variants` that this is."""

    @property
    def full_name(self) -> str:
        """Name and variant as a corpus or folder is called: "amazon-2023-Office_Products"."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    def cache(self, cache_dir: Path) -> Path:
        """The folder of this dataset's downloads, shared by its variants."""
        return cache_dir / self.name

    def check_variant(self) -> None:
        """Refuse a variant that there is none of; override where `variants` cannot list them all.

        Raises:
            DataError: `variant` is none of `variants`.
        """
        if self.variant in (self.variants or ("",)):
            return
        known = [variant for variant in self.variants if variant]
        if not known:
            raise DataError(
                f"{self.name} has no variants", value=self.variant, remedy=f"ask for {self.name}"
            )
        similar = difflib.get_close_matches(self.variant, known, n=3, cutoff=0.4)
        ordered = [*similar, *(variant for variant in known if variant not in similar)]
        shown = ", ".join(ordered[:_SHOWN_VARIANTS])
        if len(ordered) > _SHOWN_VARIANTS:
            shown += f", and {len(ordered) - _SHOWN_VARIANTS} more: brewhouse data list {self.name}"
        raise DataError(
            f"{self.name} has no variant '{self.variant}'"
            if self.variant
            else f"{self.name} comes in variants, and none is named",
            remedy=f"write {self.name}:VARIANT with one of {shown}",
        )

    @abstractmethod
    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        """Bring the files here, verified; what is in the cache is not downloaded again.

        Args:
            cache_dir: downloads stay here, in `self.cache(cache_dir)`.
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
