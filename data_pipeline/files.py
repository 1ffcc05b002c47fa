"""Files that appear whole or not at all, and hashes of what they hold."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a sibling folder to fill; it becomes `path` when the block ends without an error.

    Everything is flushed to disk before the rename, so a power cut leaves the old folder or the
    new one. With `overwrite` the old folder is moved aside and removed only once the new one is in
    place. Whatever the block raises, the sibling is removed and what stood at `path` stays.

    Raises:
        DataError: `path` exists and `overwrite` is false, is not a folder, or the disk is full.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    temp = _sibling(path, "tmp")
    with disk_full_explained(path):
        try:
            temp.mkdir(parents=True)
            yield temp
            _sync_tree(temp)
            refuse_existing(path, overwrite)  # somebody else may have written it meanwhile
            _swap(temp, path)
        finally:
            shutil.rmtree(temp, ignore_errors=True)  # gone already when the swap succeeded


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Fail before long work whose folder could not be written at its end.

    Raises:
        DataError: `path` is a file, or a folder with content and `overwrite` is false.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise DataError(
            "a file stands where a folder is to be written",
            file=path,
            remedy="choose another folder or remove the file",
        )
    if not overwrite and any(path.iterdir()):
        raise DataError(
            "the folder exists already and would be overwritten",
            file=path,
            remedy="choose another folder, remove this one, or ask for overwriting",
        )


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file so that `path` holds either its old content or all of `data` (UTF-8 for text).

    Raises:
        DataError: the disk is full.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    temp = _sibling(path, "tmp")
    with disk_full_explained(path):
        try:
            with temp.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
            sync(path.parent)
        finally:
            temp.unlink(missing_ok=True)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hash_file(path, "sha256")


def hash_file(path: str | os.PathLike[str], algorithm: str) -> str:
    """Hexadecimal digest of a file's bytes by a `hashlib` algorithm."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def fingerprint(value: Any) -> str:
    """First 16 hex characters of the SHA-256 of a value's canonical JSON.

    Equal for equal values whatever the order of keys, process or machine.

    Raises:
        TypeError: the value has parts that JSON has not.
        ValueError: the value holds NaN or an infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sibling(path: Path, role: str) -> Path:
    """A fresh hidden name beside `path`: the same file system, so a rename is atomic."""
    return path.with_name(f".{path.name}.{role}-{secrets.token_hex(4)}")


def _swap(temp: Path, path: Path) -> None:
    old = _sibling(path, "old") if path.exists() else None
    if old is not None:
        path.rename(old)
    try:
        temp.rename(path)
    except OSError:
        if old is not None:
            old.rename(path)
        raise
    sync(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into a DataError; other errors stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        free = "an unknown number of"
        with contextlib.suppress(OSError):
            free = f"{shutil.disk_usage(_existing_parent(path)).free:,}"
        raise DataError(
            f"no space left on the disk ({free} bytes are free); nothing was kept",
            file=path,
            remedy="free some space or choose a folder on another disk, then run it again",
        ) from error


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
