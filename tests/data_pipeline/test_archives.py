"""Archives of every kind: only what is wanted comes out, whole or not at all."""

import bz2
import errno
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources import archives
from data_pipeline.sources.archives import (
    fetch_archive,
    fetch_files,
    find_files,
    open_text,
    stem_of,
    unpack,
)

FILES = {"set/a.csv": b"a\n1\n", "set/deep/b.csv": b"b\n2\n", "set/unwanted.bin": b"\0" * 1000}
MEMBERS = {"events": "set/a.csv", "items": "set/deep/b.csv"}


def zipped(path: Path, files: dict[str, bytes] = FILES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"./{name}" if name.endswith("a.csv") else name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def laid_out(folder: Path, names: dict[str, str] | None = None) -> Path:
    for name, content in FILES.items():
        path = folder / (names or {}).get(name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


class Downloads:
    """Stands for the network: writes an archive where it is told to."""

    def __init__(self, write: Callable[[Path], object]) -> None:
        self.write = write
        self.urls: list[str] = []
        self.settings: dict[str, Any] = {}

    def __call__(self, url: str, target: Path, **settings: Any) -> Path:
        self.urls.append(url)
        self.settings = settings
        target.parent.mkdir(parents=True, exist_ok=True)
        self.write(target)
        return target


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    stand_in = Downloads(zipped)
    monkeypatch.setattr(archives, "download", stand_in)
    return stand_in


def fetched(cache: Path, **settings: Any) -> dict[str, Path]:
    return dict(fetch_archive("set", "https://x.org/set.zip", cache, members=MEMBERS, **settings))


@pytest.mark.parametrize("name", ["s.zip", "s.whl", "s.tar.gz", "s.tar.bz2", "s.tar.xz"])
def test_wanted_members_come_out_of_every_kind(tmp_path: Path, name: str) -> None:
    write = zipped if name.endswith((".zip", ".whl")) else tarred
    paths = unpack(write(tmp_path / name), MEMBERS, tmp_path / "out")
    assert {role: path.read_bytes() for role, path in paths.items()} == {
        role: FILES[member] for role, member in MEMBERS.items()
    }
    found = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["a.csv", "b.csv"]


@pytest.mark.parametrize(("name", "module"), [("a.gz", gzip), ("a.bz2", bz2), ("a.xz", lzma)])
def test_a_packed_file_gets_its_name(tmp_path: Path, name: str, module: Any) -> None:
    with module.open(tmp_path / name, "wb") as file:
        file.write(b"text")
    paths = unpack(tmp_path / name, {"events": "a.csv"}, tmp_path / "out")
    assert paths["events"] == tmp_path / "out" / "a.csv"
    assert paths["events"].read_bytes() == b"text"


def test_fetched_once_and_the_archive_is_removed(tmp_path: Path, downloads: Downloads) -> None:
    paths = fetched(tmp_path / "cache", md5="0" * 32)
    assert paths["items"].read_bytes() == FILES["set/deep/b.csv"]
    assert downloads.settings["md5"] == "0" * 32
    assert not (tmp_path / "cache" / "set.zip").exists()
    assert fetched(tmp_path / "cache") == paths
    assert downloads.urls == ["https://x.org/set.zip"]
    paths["items"].unlink()  # somebody tidied up
    assert fetched(tmp_path / "cache")["items"].exists()
    assert len(downloads.urls) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>please log in</html>", "not the expected one"),
        (b"", "not the expected one"),
        ("lacking", "it has no set/deep/b.csv"),
        ("cut", "not the expected one"),
    ],
)
def test_a_wrong_archive_leaves_nothing(
    tmp_path: Path, downloads: Downloads, content: bytes | str, message: str
) -> None:
    def write(path: Path) -> None:
        if content == "lacking":
            zipped(path, {"set/a.csv": b""})
        elif content == "cut":
            whole = zipped(path).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        else:
            path.write_bytes(bytes(content))  # type: ignore[arg-type]

    downloads.write = write
    with pytest.raises(DataError, match=message) as caught:
        fetched(tmp_path / "cache")
    assert caught.value.remedy
    assert not list((tmp_path / "cache").iterdir())  # so that the next call downloads it again


def test_a_full_disk_costs_no_download(
    tmp_path: Path, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match="no space left on the disk"):
        fetched(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["set.zip"]


def test_a_cut_tar_is_noticed(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "s.tar.gz").read_bytes()
    (tmp_path / "s.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not the expected one"):
        unpack(tmp_path / "s.tar.gz", MEMBERS, tmp_path / "out")


def test_checksum_of_a_member(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip")
    with pytest.raises(DataError, match=r"a\.csv has md5 .*, expected 00"):
        unpack(archive, MEMBERS, tmp_path / "out", member_md5={"events": "00"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"set/a.csv": "a.csv", "set/deep/b.csv": "deep/b.csv"},
        {"set/a.csv": "mine/a.csv", "set/deep/b.csv": "mine/deep/b.csv"},
        {"set/a.csv": "a.csv.gz", "set/deep/b.csv": "deep/b.csv"},
    ],
)
def test_a_users_files_are_found(
    tmp_path: Path, downloads: Downloads, names: dict[str, str]
) -> None:
    folder = laid_out(tmp_path / "have", names)
    paths = fetched(tmp_path / "cache", from_dir=folder)
    assert all(path.is_file() for path in paths.values())
    assert paths["items"].read_bytes() == FILES["set/deep/b.csv"]
    assert not downloads.urls
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["have/set.zip", "have/downloads/set.zip"])
def test_a_users_archive_is_unpacked_beside_the_cache(
    tmp_path: Path, downloads: Downloads, place: str
) -> None:
    zipped(tmp_path / place)
    paths = fetched(tmp_path / "cache" / "set", from_dir=tmp_path / "have")
    assert paths["events"].read_bytes() == FILES["set/a.csv"]
    assert not (tmp_path / "cache" / "set").exists()  # a licence was not shown yet
    assert fetched(tmp_path / "cache" / "set", from_dir=tmp_path / "have") == paths
    assert not downloads.urls


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "have").mkdir()
    (tmp_path / "have" / "else.txt").touch()
    with pytest.raises(DataError, match=r"of set are not there; there is else\.txt") as caught:
        fetched(tmp_path / "cache", from_dir=tmp_path / "have")
    assert caught.value.remedy == "put a.csv, b.csv (or set.zip) in a folder and use --from FOLDER"
    with pytest.raises(DataError, match="no such folder"):
        fetched(tmp_path / "cache", from_dir=tmp_path / "nowhere")


def test_two_folders_with_the_files_are_one_too_many(tmp_path: Path) -> None:
    for copy in ("old", "new"):
        laid_out(tmp_path / copy, {"set/a.csv": "a.csv", "set/deep/b.csv": "deep/b.csv"})
    with pytest.raises(DataError, match=r"two folders in it have a\.csv"):
        find_files(tmp_path, MEMBERS)


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    members = {"train": "set_train/log.tsv", "dev": "set_dev/log.tsv"}
    (tmp_path / "log.tsv").touch()
    assert find_files(tmp_path, members) is None
    for member in members.values():
        (tmp_path / "x" / member).parent.mkdir(parents=True)
        (tmp_path / "x" / member).touch()
    found = find_files(tmp_path, members)
    assert found == {role: tmp_path / "x" / member for role, member in members.items()}


def test_files_stay_as_they_are_published(tmp_path: Path, downloads: Downloads) -> None:
    downloads.write = lambda path: path.write_bytes(gzip.compress(b"x,y\n"))
    urls = {"events": "https://x.org/e.csv.gz", "items": "https://x.org/i.csv.gz"}
    paths = fetch_files("set", urls, tmp_path / "cache", md5={"items": "ab"})
    assert paths["events"] == tmp_path / "cache" / "e.csv.gz"
    assert downloads.settings["md5"] == "ab"
    assert fetch_files("set", urls, tmp_path / "cache") == paths
    assert len(downloads.urls) == 2
    have = tmp_path / "have"
    have.mkdir()
    (have / "e.csv").write_bytes(b"x,y\n")  # the user unpacked one of them
    (have / "i.csv.gz").write_bytes(gzip.compress(b"x,y\n"))
    found = fetch_files("set", urls, tmp_path / "cache", from_dir=have)
    assert [found["events"].name, found["items"].name] == ["e.csv", "i.csv.gz"]
    (have / "e.csv").unlink()
    with pytest.raises(DataError, match="not there"):
        fetch_files("set", urls, tmp_path / "cache", from_dir=have)


def test_text_is_read_packed_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é\r\n".encode("latin-1"))
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write("é\r\n".encode("latin-1"))
    for name in ("a.txt", "b.txt.gz"):
        with open_text(tmp_path / name, "latin-1") as text:
            assert text.read() == "é\r\n"
    with (
        pytest.raises(DataError, match="cannot be read as utf-8"),
        open_text(tmp_path / "a.txt") as text,
    ):
        text.read()
    (tmp_path / "c.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"), open_text(tmp_path / "c.gz") as text:
        text.read()


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.zip", "a"), ("a.tar.gz", "a"), ("a.json.gz", "a.json"), ("a", "a.unpacked")],
)
def test_folder_of_an_archive(name: str, stem: str) -> None:
    assert stem_of(name) == stem
