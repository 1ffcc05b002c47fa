"""Hash of a table's values: blind to chunks, slices, Parquet encoding, file names and times."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class TableHash:
    """Hashes a table that may arrive in pieces, column by column.

    Of each column three streams are hashed: which values are null, the lengths (of strings and
    lists), and the content, with nulls replaced by an empty value. None of them depends on where
    the pieces were cut.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = [_ColumnHash(field.type) for field in schema]

    def update(self, table: pa.Table) -> None:
        """Add the next rows."""
        assert table.schema.names == self._schema.names, "the pieces of a table have one schema"
        for column, hasher in zip(table.columns, self._columns, strict=True):
            for chunk in column.chunks:
                hasher.update(chunk)

    def hexdigest(self) -> str:
        """The hash of all rows so far, with the columns' names and types."""
        total = hashlib.sha256()
        for field, column in zip(self._schema, self._columns, strict=True):
            total.update(f"{field.name}:{field.type};".encode())
            total.update(column.digest())
        return total.hexdigest()


class _ColumnHash:
    def __init__(self, type_: pa.DataType) -> None:
        self._streams = [hashlib.sha256() for _ in range(3)]
        self._child = _ColumnHash(type_.value_type) if pa.types.is_list(type_) else None

    def update(self, array: pa.Array) -> None:
        valid, lengths, content = self._streams
        valid.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
        if self._child is not None:
            lengths.update(_integers(pc.fill_null(pc.list_value_length(array), 0)))
            self._child.update(array.flatten())
        elif pa.types.is_string(array.type):
            filled = pc.fill_null(array, "")
            lengths.update(_integers(pc.binary_length(filled)))
            for piece in _string_bytes(filled):
                content.update(piece)
        elif pa.types.is_floating(array.type):
            values = pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False)
            content.update((values.astype("<f8") + 0.0).tobytes())  # + 0.0: one kind of zero
        elif pa.types.is_timestamp(array.type):
            content.update(_integers(pc.fill_null(array.cast(pa.int64()), 0)))
        else:
            raise AssertionError(f"no canonical bytes for {array.type}")

    def digest(self) -> bytes:
        parts = b"".join(stream.digest() for stream in self._streams)
        return parts if self._child is None else parts + self._child.digest()


def _integers(array: pa.Array) -> bytes:
    return bytes(array.to_numpy(zero_copy_only=False).astype("<i8").tobytes())


def _string_bytes(array: pa.Array) -> Iterator[memoryview]:
    """The bytes of all strings of an array without nulls, one after another."""
    if len(array) == 0:
        return
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    if data is not None and ends[-1] > ends[0]:
        yield memoryview(data)[int(ends[0]) : int(ends[-1])]
