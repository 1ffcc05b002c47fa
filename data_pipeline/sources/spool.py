"""Tables too big for memory on their way into a corpus: on disk beside it, and memory-mapped."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.files import disk_full_explained

_ROWS = 1 << 16


@contextmanager
def spool_beside(folder: Path) -> Iterator[Path]:
    """Yield a folder for spooled tables on the disk of the corpus to be; it is removed at the end.

    Raises:
        DataError: the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        disk_full_explained(folder),
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.spool-", dir=folder.parent) as spool,
    ):
        yield Path(spool)


def spooled(spool: Path, schema: pa.Schema, pieces: Iterable[pa.Table]) -> pa.Table:
    """Write pieces one after another; the table of all of them takes disk, not memory.

    Args:
        spool: what `spool_beside` yields; the table lives as long.
        schema: of all pieces.
        pieces: taken one at a time.
    """
    path = spool / f"{len(list(spool.iterdir()))}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for piece in pieces:
            writer.write_table(piece.select(schema.names).cast(schema), max_chunksize=_ROWS)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def kept(spool: Path, table: pa.Table, keep_N: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows of a spooled table that are kept, spooled too."""

    def pieces() -> Iterator[pa.Table]:
        start = 0
        for batch in table.to_batches(max_chunksize=_ROWS):
            mask = pa.array(keep_N[start : start + len(batch)])
            yield pa.Table.from_batches([batch.filter(mask)])
            start += len(batch)

    return table if keep_N.all() else spooled(spool, table.schema, pieces())
