"""A pandas frame inside a pickle, read without unpickling.

Unpickling calls whatever the file names. Here the file's instructions are only walked over: a call
becomes a record of what would have been called, and the columns are taken out of those records.
Nothing is imported and nothing is called, so a file from a stranger can do no harm.
"""

import lzma
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError

_XZ = b"\xfd7zXZ\x00"
_SIMPLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_DTYPES = frozenset(("f4", "f8", "i4", "i8"))


@dataclass(slots=True, eq=False)
class _Call:
    """What unpickling would have called, with what, and the state it would have set."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_frame(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns of a pickled frame: numbers as arrays of their type, all else as objects.

    Args:
        path: the pickle, protocol 4 or 5, as it is or packed by xz.

    Raises:
        DataError: the file is no pickle of a frame of numbers and texts.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_XZ):
            content = lzma.decompress(content)
        return _columns(_record(content))
    except OSError:
        raise
    except Exception as error:  # a file of another shape can be wrong in any place
        raise DataError(
            f"the file is not a frame as pandas writes it: {type(error).__name__}: {error}",
            file=path,
            remedy="is it whole, and of the expected version? Fetch it again",
        ) from error


def _record(data: bytes) -> Any:
    """What the pickle describes, each call as a `_Call`."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _IGNORED:
            continue
        if name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _SIMPLE:
            stack.append(_SIMPLE[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            taken = tuple(stack[-_TUPLES[name] :])
            del stack[-len(taken) :]
            stack.append(taken)
        elif name == "APPENDS":
            taken_list = since_mark()
            stack[-1].extend(taken_list)
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name in ("SETITEM", "SETITEMS"):
            flat = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(flat[::2], flat[1::2], strict=True))
        elif name == "STACK_GLOBAL":
            stack.append(_Call(f"{stack.pop(-2)}.{stack.pop()}", ()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(_Call(called.name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif argument is not None:
            stack.append(argument)
        else:
            raise ValueError(f"the instruction {name}")
    (whole,) = stack
    return whole


def _columns(frame: _Call) -> dict[str, npt.NDArray[Any]]:
    if not frame.name.endswith(".DataFrame"):
        raise ValueError(f"{frame.name} is no frame")
    blocks, (columns, _) = frame.state["_mgr"].arguments[:2]
    names = _array(columns.arguments[1]["data"])
    found: dict[str, npt.NDArray[Any]] = {}
    for block in blocks:
        values_CN, placement = block.arguments[:2]
        rows = _array(values_CN)
        if placement.name.endswith(".slice"):
            positions = list(range(*placement.arguments))
        else:
            positions = _array(placement).tolist()
        found.update({str(names[at]): row for at, row in zip(positions, rows, strict=True)})
    return {str(name): found[str(name)] for name in names}


def _array(call: _Call) -> npt.NDArray[Any]:
    """An array that numpy wrote as bytes, or as a list of objects."""
    flat: npt.NDArray[Any]
    if call.name.endswith("._frombuffer"):
        content, dtype, shape, order = call.arguments
    elif call.name.endswith("._reconstruct"):
        _, shape, dtype, is_fortran, content = call.state
        order = "F" if is_fortran else "C"
    else:
        raise ValueError(f"{call.name} is no array")
    if isinstance(content, list):
        flat = np.empty(len(content), dtype=object)
        flat[:] = content
    else:
        flat = np.frombuffer(content, dtype=_dtype(dtype))
    return np.reshape(flat, shape, order="F" if order == "F" else "C")


def _dtype(call: _Call) -> str:
    kind = call.arguments[0]
    if kind not in _DTYPES or call.state[1] != "<":
        raise ValueError(f"numbers of type {kind}")
    return f"<{kind}"
