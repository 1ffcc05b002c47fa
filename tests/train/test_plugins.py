"""A user's own modules: by name, by file, by entry point; each failure says whose it is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_plugins import registries_restored

from train.errors import ConfigError
from train.plugins import load_plugins, loaded_plugins


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    with registries_restored():
        yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_modules_are_imported_or_say_why_not(folder: Path) -> None:
    (folder / "good_plugin_module.py").write_text("LOADED = True\n")
    (folder / "bad_plugin_module.py").write_text("1 / 0\n")
    (folder / "needy_plugin_module.py").write_text("import no_such_thing_x\n")
    load_plugins(["good_plugin_module"])
    assert sys.modules["good_plugin_module"].LOADED
    with pytest.raises(ConfigError, match=r"no_plugin_here.tasks, and Python finds no module no"):
        load_plugins(["no_plugin_here.tasks"])
    with pytest.raises(ConfigError, match=r"bad_plugin_module under plugins fails.*division by"):
        load_plugins(["bad_plugin_module"])
    with pytest.raises(
        ConfigError, match=r"needy_plugin_module under plugins fails.*no_such_thing"
    ):
        load_plugins(["needy_plugin_module"])


def test_files_are_loaded_once_and_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "mine.py").write_text(
            f"import sys\nsys.seen_{name} = getattr(sys, 'seen_{name}', 0) + 1\n"
        )
    monkeypatch.chdir(folder)
    load_plugins(["a/mine.py", str(folder / "b" / "mine.py"), str(folder / "a" / "mine.py")])
    load_plugins(["a/mine.py"])
    assert (sys.seen_a, sys.seen_b) == (1, 1)  # type: ignore[attr-defined]
    first, second = loaded_plugins()[-2:]
    assert first["plugin"] == str(folder / "a" / "mine.py")
    assert len(first["sha256"]) == 64
    assert first["sha256"] != second["sha256"]


def test_a_file_that_fails_or_is_missing_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the file .*gone.py, and there is none"):
        load_plugins([str(folder / "gone.py")])
    (folder / "half.py").write_text("def broken(:\n")
    with pytest.raises(ConfigError, match=r"half.py under plugins fails.*SyntaxError"):
        load_plugins([str(folder / "half.py")])
    assert not [name for name in sys.modules if "_half_" in name]


def offered(folder: Path, module: str) -> None:
    info = folder / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[brewhouse.plugins]\ntheirs = {module}\n")


def test_installed_packages_offer_plugins(folder: Path) -> None:
    (folder / "their_module.py").write_text("LOADED = True\n")
    offered(folder, "their_module")
    load_plugins([])
    assert sys.modules["their_module"].LOADED
    assert loaded_plugins()[-1]["from"] == "entry point theirs"


def test_a_package_whose_plugin_fails_is_named(folder: Path) -> None:
    offered(folder, "no_such_module_of_theirs")
    with pytest.raises(ConfigError, match=r"no_such_module_of_theirs.*package their-package"):
        load_plugins([])
