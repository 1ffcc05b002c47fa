"""Arrays on disk that grow while they are made, so that none of them is ever whole in memory."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data_pipeline.tokenizer import Ids

TOKENS_FILE: Final = "tokens.npy"
OFFSETS_FILE: Final = "piece_offsets.npy"


class ArrayWriter:
    """A .npy file of one dimension, appended to; it can be read once it is closed."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._length = 0
        self._write_header()
        self._header_end = self._file.tell()

    def __len__(self) -> int:
        return self._length

    def append(self, values: NDArray[np.generic]) -> None:
        """Add values, cast to the file's type."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def close(self) -> None:
        """Write the length that the file has come to."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._header_end, "a header has room for any length"
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class PieceWriter:
    """The pieces of a token store: one flat array of ids, and the offsets into it."""

    def __init__(self, folder: Path) -> None:
        self._tokens = ArrayWriter(folder / TOKENS_FILE, np.int32)
        self._offsets = ArrayWriter(folder / OFFSETS_FILE, np.int64)
        self._offsets.append(np.zeros(1, np.int64))

    @property
    def count(self) -> int:
        """Pieces so far."""
        return len(self._offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens of all pieces so far."""
        return len(self._tokens)

    def extend(self, pieces: Sequence[Ids]) -> None:
        """Add pieces, each of any length."""
        if pieces:
            lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
            self.extend_flat(np.concatenate(pieces), lengths)

    def extend_flat(self, tokens: Ids, lengths: NDArray[np.int64]) -> None:
        """Add pieces whose ids stand one after another."""
        self._offsets.append(np.cumsum(lengths) + self.tokens)
        self._tokens.append(tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._tokens.__exit__(kind, error, at)
        self._offsets.__exit__(kind, error, at)
