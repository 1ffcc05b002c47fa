"""Published files and archives: downloaded, verified, and only what is wanted unpacked.

A source says which files it wants, role by role, by their paths inside the archive. They come from
the download, or from a folder that the user has: unpacked there, compressed one by one (.gz, .bz2),
or still inside the archive.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, fingerprint, hash_file
from data_pipeline.sources.base import Paths, Progress
from data_pipeline.sources.fetch import download

_ZIP = (".zip", ".whl")
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz")
_PACKED = (".gz", ".bz2", ".xz")
_OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


class WrongArchiveError(DataError):
    """An archive that is damaged, or is not the one that was asked for."""


def fetch_archive(
    source_name: str,
    url: str,
    cache: Path,
    *,
    members: Mapping[str, str],
    md5: str | None = None,
    sha256: str | None = None,
    from_dir: Path | None = None,
    progress: Progress | None = None,
    timeout: float = 10.0,
    attempts: int = 4,
) -> Paths:
    """Bring the wanted files of one archive here; what is in the cache is not downloaded again.

    The archive itself is removed once its files stand unpacked in the cache. For several archives
    of one dataset, ask `find_files` for all their files together before this function for each:
    only so can files of one name in two folders be told apart.

    Args:
        source_name: of the dataset, for messages.
        url: of a .zip, .whl, .tar, .tar.gz, .tar.bz2, .tar.xz, or of one file as .gz, .bz2 or .xz.
        cache: the dataset's folder in the cache, `Source.cache(cache_dir)`.
        members: role -> path inside the archive; for one packed file, the name that it is to get.
        md5: of the archive, where the publisher gives it.
        sha256: the same.
        from_dir: a folder with the files or the archive; nothing is downloaded then, and no
            checksum compared: counts decide whether it is the dataset.
        progress: told about the download.
        timeout: seconds to wait for a connection and for every chunk.
        attempts: how often to try.

    Raises:
        DataError: the archive cannot be had, is not the expected one, or lacks a file.
    """
    archive_name = PurePosixPath(url).name
    if from_dir is not None:
        return files_from(source_name, from_dir, cache, members=members, archive=archive_name)
    folder = cache / stem_of(archive_name)
    if (known := standing(folder, members)) is not None:
        return known
    archive = download(
        url,
        cache / archive_name,
        md5=md5,
        sha256=sha256,
        progress=progress,
        timeout=timeout,
        attempts=attempts,
        remedy=from_remedy(archive_name, members),
    )
    try:
        paths = unpack(archive, members, folder)
    except WrongArchiveError:
        archive.unlink()  # a page that asks to log in, say: the next call is to download again
        raise
    archive.unlink()
    return paths


def fetch_files(
    source_name: str,
    urls: Mapping[str, str],
    cache: Path,
    *,
    md5: Mapping[str, str] | None = None,
    sha256: Mapping[str, str] | None = None,
    from_dir: Path | None = None,
    progress: Progress | None = None,
) -> Paths:
    """Bring files here as they are published: a .gz stays one, for readers that stream it.

    Args:
        source_name: of the dataset, for messages.
        urls: role -> address.
        cache: the dataset's folder in the cache.
        md5: role -> checksum, where the publisher gives it.
        sha256: the same.
        from_dir: a folder with the files, packed or not; nothing is downloaded then.
        progress: told about each download.

    Raises:
        DataError: a file cannot be had.
    """
    names = {role: PurePosixPath(url).name for role, url in urls.items()}
    if from_dir is not None:
        found = find_files(from_dir, names)
        if found is None:
            raise _not_there(source_name, from_dir, "", names)
        return found
    return {
        role: _downloaded(
            url,
            cache / names[role],
            (md5 or {}).get(role),
            (sha256 or {}).get(role),
            progress,
            from_remedy("", names),
        )
        for role, url in urls.items()
    }


def _downloaded(
    url: str,
    target: Path,
    md5: str | None,
    sha256: str | None,
    progress: Progress | None,
    remedy: str,
) -> Path:
    # Its name stands only for a whole file whose checksum was right: gigabytes are hashed once.
    if target.exists():
        return target
    return download(url, target, md5=md5, sha256=sha256, progress=progress, remedy=remedy)


def find_files(folder: Path, members: Mapping[str, str]) -> Paths | None:
    """The wanted files in a user's folder; None when they are not all there.

    They may stand as in the archive, without its top folders, in one folder further down, and
    packed one by one (.gz, .bz2, .xz), or not packed though the wanted name is.

    Args:
        folder: what `--from` named.
        members: role -> path.

    Raises:
        DataError: the folder is none, or two folders in it have the files.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", file=folder, remedy="name one that exists with --from"
        )
    parts = {role: PurePosixPath(member).parts for role, member in members.items()}
    for depth in range(min(len(part) for part in parts.values())):
        names = {role: "/".join(part[depth:]) for role, part in parts.items()}
        if len(set(names.values())) < len(names):
            return None
        if (found := _in_place(folder, names)) is not None:
            return found
        places = sorted(place for place in folder.iterdir() if place.is_dir())
        below = [found for place in places if (found := _in_place(place, names)) is not None]
        if len(below) == 1:
            return below[0]
        if below:
            raise DataError(
                f"two folders in it have {next(iter(names.values()))}: "
                f"{', '.join(str(next(iter(found.values())).parent) for found in below[:2])}",
                file=folder,
                remedy="name the one you mean with --from",
            )
    return None


def _in_place(folder: Path, names: Mapping[str, str]) -> Paths | None:
    found = {}
    for role, name in names.items():
        candidates = [name, *(name + packing for packing in _PACKED)]
        candidates += [name.removesuffix(packing) for packing in _PACKED if name.endswith(packing)]
        there = [folder / candidate for candidate in candidates if (folder / candidate).is_file()]
        if not there:
            return None
        found[role] = there[0]
    return found


def files_from(
    source_name: str, from_dir: Path, cache: Path, *, members: Mapping[str, str], archive: str
) -> Paths:
    """The wanted files from a user's folder, unpacked there or still in their archive.

    Args:
        source_name: of the dataset, for messages.
        from_dir: what `--from` named.
        cache: the dataset's folder in the cache; what is unpacked stands beside it.
        members: role -> path inside the archive.
        archive: the archive's name, or a pattern of it.

    Raises:
        DataError: neither is there, or the archive is not the expected one.
    """
    found = find_files(from_dir, members)
    if found is not None:
        return found
    packed = next((path for path in sorted(from_dir.glob(archive)) if path.is_file()), None)
    packed = packed or next((path for path in sorted(from_dir.glob(f"*/{archive}"))), None)
    if packed is None:
        raise _not_there(source_name, from_dir, archive, members)
    state = packed.stat()
    mark = fingerprint([str(packed.absolute()), state.st_size, state.st_mtime_ns])
    folder = cache.with_name(f"{cache.name}.from-{mark}")
    return standing(folder, members) or unpack(packed, members, folder)


def from_remedy(archive_name: str, members: Mapping[str, str]) -> str:
    """What to type for files that were brought here in another way."""
    names = list(dict.fromkeys(PurePosixPath(member).name for member in members.values()))
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    also = f" (or {archive_name})" if archive_name else ""
    return f"put {shown}{also} in a folder and use --from FOLDER"


def _not_there(
    source_name: str, folder: Path, archive_name: str, members: Mapping[str, str]
) -> DataError:
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return DataError(
        f"the files of {source_name} are not there; there is {there}",
        file=folder,
        remedy=from_remedy(archive_name, members),
    )


def stem_of(archive_name: str) -> str:
    """The name of an archive without its ending: the folder that it is unpacked to."""
    for ending in sorted((*_ZIP, *_TAR, *_PACKED), key=len, reverse=True):
        if archive_name.endswith(ending):
            return archive_name.removesuffix(ending)
    return f"{archive_name}.unpacked"


def standing(folder: Path, members: Mapping[str, str]) -> Paths | None:
    """The wanted files where they were unpacked to; None when one is missing."""
    paths = {role: folder / member for role, member in members.items()}
    return paths if all(path.is_file() for path in paths.values()) else None


def unpack(
    archive: Path,
    members: Mapping[str, str],
    folder: Path,
    *,
    member_md5: Mapping[str, str] | None = None,
) -> Paths:
    """Unpack the wanted files into a folder that appears whole or not at all.

    Args:
        archive: a zip, a tar however compressed, or one packed file.
        members: role -> path inside the archive, which is its path in the folder too.
        folder: replaced if it stands there.
        member_md5: role -> checksum of the file, where one is known.

    Raises:
        WrongArchiveError: the archive is damaged or lacks a file, or a checksum is wrong.
        DataError: the disk is full.
    """
    try:
        with atomic_folder(folder, overwrite=True) as temp:
            missing = set(members.values())
            for member, content in _contents(archive, missing):
                target = temp / member
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                missing.discard(member)
            if missing:
                raise WrongArchiveError(
                    f"the archive is not the expected one: it has no {sorted(missing)[0]}",
                    file=archive,
                    remedy="fetch again; if it stays so, the publisher has changed it",
                )
            for role, wanted in (member_md5 or {}).items():
                if (found := hash_file(temp / members[role], "md5")) != wanted:
                    raise WrongArchiveError(
                        f"{PurePosixPath(members[role]).name} has md5 {found}, expected {wanted}",
                        file=archive,
                        remedy="fetch again",
                    )
    except _BROKEN as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's trouble, not the archive's
        raise WrongArchiveError(
            f"the archive is not the expected one: {error or type(error).__name__}",
            file=archive,
            remedy="fetch again; if it stays so, the publisher has changed it",
        ) from error
    return {role: folder / member for role, member in members.items()}


def _contents(archive: Path, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The wanted members that there are, each open while it is its turn."""
    wanted = set(wanted)
    if archive.name.endswith(_ZIP):
        with zipfile.ZipFile(archive) as packed:
            for member in sorted(wanted & set(packed.namelist())):
                with packed.open(member) as file:
                    yield member, file
    elif archive.name.endswith(_TAR):
        # As a stream: one pass over the compressed bytes, whatever the order of the members.
        with tarfile.open(archive, "r|*") as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                if info.isfile() and name in wanted:
                    yield name, cast(IO[bytes], tar.extractfile(info))
    else:
        with open_binary(archive) as file:
            yield from ((member, file) for member in wanted)


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked on the way where its name ends in .gz, .bz2 or .xz."""
    opener = _OPENERS.get(path.suffix, open)
    with opener(path, "rb") as file:
        yield file


@contextmanager
def open_text(path: Path, encoding: str = "utf-8") -> Iterator[io.TextIOWrapper]:
    """A file's lines, unpacked on the way; line ends stay as they are, for csv readers.

    Raises:
        DataError: the packed file is damaged, or the text has another encoding.
    """
    try:
        with (
            open_binary(path) as file,
            contextlib.closing(io.TextIOWrapper(file, encoding=encoding, newline="")) as text,
        ):
            yield text
    except (UnicodeDecodeError, *_BROKEN) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's trouble, not the file's
        raise DataError(
            f"the file cannot be read as {encoding}: {error or type(error).__name__}",
            file=path,
            remedy="is it whole, and the publisher's? Fetch it again",
        ) from error
