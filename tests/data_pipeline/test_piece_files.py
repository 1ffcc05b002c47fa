"""Arrays that grow on disk are the arrays that numpy would have written."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.piece_files import OFFSETS_FILE, TOKENS_FILE, ArrayWriter, PieceWriter


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=6),
    st.sampled_from([np.int32, np.int64, np.float32, np.int8]),
)
def test_a_grown_array_is_read_as_one(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], dtype: type[np.generic]
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.npy"
    arrays = [np.array(part, np.int64).astype(dtype) for part in parts]
    with ArrayWriter(path, dtype) as writer:
        for array in arrays:
            writer.append(array)
        assert len(writer) == sum(map(len, parts))
    whole = np.concatenate([*arrays, np.empty(0, dtype)])
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    assert found.dtype == dtype
    assert found.tolist() == whole.tolist()
    np.save(path.parent / "b.npy", whole, allow_pickle=False)
    assert path.read_bytes() == (path.parent / "b.npy").read_bytes()


def test_an_array_left_by_an_error_says_that_it_is_empty(tmp_path: Path) -> None:
    def fail() -> None:
        with ArrayWriter(tmp_path / "a.npy", np.int32) as writer:
            writer.append(np.arange(5))
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert len(np.load(tmp_path / "a.npy")) == 0


def test_pieces_are_cut_where_they_were_added(tmp_path: Path) -> None:
    given = [np.arange(n, dtype=np.int32) for n in (3, 0, 1, 7)]
    with PieceWriter(tmp_path) as pieces:
        pieces.extend(given[:2])
        pieces.extend([])
        pieces.extend_flat(np.concatenate(given[2:]), np.array([1, 7]))
        assert (pieces.count, pieces.tokens) == (4, 11)
    tokens, offsets = np.load(tmp_path / TOKENS_FILE), np.load(tmp_path / OFFSETS_FILE)
    assert (tokens.dtype, offsets.dtype) == (np.int32, np.int64)
    for row, piece in enumerate(given):
        assert tokens[offsets[row] : offsets[row + 1]].tolist() == piece.tolist()
    assert len(offsets) == 5
