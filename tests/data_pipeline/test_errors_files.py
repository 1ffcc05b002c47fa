"""Errors say everything that was given; files and folders appear whole or not at all."""

import errno
import os
import pickle
from pathlib import Path

import pytest

from data_pipeline import files
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, atomic_write, fingerprint, sha256_file


def test_error_shows_place_value_and_remedy() -> None:
    error = DataError(
        "no such item", file="e.csv", row=12, column="sku", value="007", remedy="add it"
    )
    assert str(error) == "e.csv, row 12, column 'sku': no such item (value: '007')\nRemedy: add it"


def test_error_without_place_is_its_message() -> None:
    assert str(DataError("broken")) == "broken"


def test_error_cuts_a_long_value() -> None:
    text = str(DataError("bad", value="x" * 100_000))
    assert len(text) < 200
    assert "100,002 characters" in text


def test_error_survives_the_way_between_processes() -> None:
    error = DataError("bad", file="e.csv", row=3, remedy="mend it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_and_fail(folder: Path, error: BaseException) -> None:
    with atomic_folder(folder, overwrite=True) as temp:
        (temp / "new.txt").write_text("new")
        raise error


def test_folder_appears_with_its_files(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as temp:
        assert temp.parent == tmp_path / "deep"
        (temp / "sub").mkdir()
        (temp / "sub" / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "sub" / "a.txt").read_text() == "a"
    assert leftovers(tmp_path / "deep") == ["out"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill_and_fail(tmp_path / "out", KeyboardInterrupt())
    assert leftovers(tmp_path) == []


def test_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    with (
        pytest.raises(DataError, match="exists already") as caught,
        atomic_folder(tmp_path / "out"),
    ):
        pytest.fail("the block must not run")
    assert caught.value.file == str(tmp_path / "out")
    assert caught.value.remedy
    assert leftovers(tmp_path) == ["out"]


def test_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as temp:
        (temp / "a.txt").write_text("a")
    assert (tmp_path / "out" / "a.txt").exists()


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with (
        pytest.raises(DataError, match="a file stands"),
        atomic_folder(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("the block must not run")


def test_overwriting_replaces_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    with atomic_folder(tmp_path / "out", overwrite=True) as temp:
        (temp / "new.txt").write_text("new")
        assert (tmp_path / "out" / "old.txt").exists()
    assert leftovers(tmp_path / "out") == ["new.txt"]
    assert leftovers(tmp_path) == ["out"]


def test_failed_overwriting_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    with pytest.raises(RuntimeError):
        fill_and_fail(tmp_path / "out", RuntimeError())
    assert leftovers(tmp_path / "out") == ["old.txt"]
    assert leftovers(tmp_path) == ["out"]


def test_failed_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise OSError(errno.EIO, "broken disk")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(OSError, match="broken disk"),
        atomic_folder(tmp_path / "out", overwrite=True) as temp,
    ):
        (temp / "new.txt").write_text("new")
    assert leftovers(tmp_path / "out") == ["old.txt"]
    assert leftovers(tmp_path) == ["out"]


def test_folder_is_flushed_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    real = files.sync

    def sync(path: Path) -> None:
        synced.append((path.name, (tmp_path / "out").exists()))
        real(path)

    monkeypatch.setattr(files, "sync", sync)
    with atomic_folder(tmp_path / "out") as temp:
        (temp / "a.txt").write_text("a")
    assert ("a.txt", False) in synced  # content first
    assert synced[-1] == (tmp_path.name, True)  # the name last


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_says_folder_free_bytes_and_remedy(tmp_path: Path, code: int) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    with pytest.raises(DataError, match="no space left") as caught:
        fill_and_fail(tmp_path / "out", OSError(code, os.strerror(code)))
    assert caught.value.file == str(tmp_path / "out")
    assert "bytes are free" in caught.value.message
    assert "another disk" in str(caught.value.remedy)
    assert leftovers(tmp_path / "out") == ["old.txt"]
    assert leftovers(tmp_path) == ["out"]


def test_other_system_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "no")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("data", [b"\x00\xff", "grüße 😀\n"])
def test_file_is_written_whole(tmp_path: Path, data: bytes | str) -> None:
    atomic_write(tmp_path / "a", "old")
    atomic_write(tmp_path / "a", data)
    expected = data.encode() if isinstance(data, str) else data
    assert (tmp_path / "a").read_bytes() == expected
    assert leftovers(tmp_path) == ["a"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "a", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="no space left"):
        atomic_write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert leftovers(tmp_path) == ["a"]


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_fingerprint_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert len(fingerprint("ü")) == 16
    assert fingerprint({"a": 1}) == "015abd7f5cc57a2d"  # the same on every machine
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))
