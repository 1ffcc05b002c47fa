"""A user's own tasks, sources, students and metrics: modules that register them when imported.

They are named under `plugins:` in a config, by dotted name or by file, or installed packages offer
them under the entry point group `brewhouse.plugins`. Every process of a run imports them before it
looks anything up.
"""

import hashlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

from train.errors import ConfigError

GROUP: Final = "brewhouse.plugins"
FILE: Final = ".py"
"""How a plugin ends that is a file."""

_loaded: dict[str, dict[str, str]] = {}
"""What was loaded, by dotted name or path: `plugin`, `from` and `sha256` where it is one file."""


def load_plugins(names: Sequence[str]) -> None:
    """Import what installed packages offer, then each module or file, in order, once.

    Raises:
        ConfigError: one that is not found, or that fails while it is imported.
    """
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.module not in _loaded:
            _note(point.module, _entry(point), f"entry point {point.name}")
    for name in names:
        key = str(Path(name).resolve()) if name.endswith(FILE) else name
        if key not in _loaded:
            _note(key, _file(Path(name)) if name.endswith(FILE) else _module(name), "plugins")


def loaded_plugins() -> list[dict[str, str]]:
    """What `load_plugins` imported so far: for the record of a run."""
    return list(_loaded.values())


def _entry(point: EntryPoint) -> ModuleType:
    owner = point.dist.name if point.dist else "?"
    cure = f"Mend or uninstall the package {owner}, which offers it under {GROUP}."
    with _told(point.module, cure):
        return importlib.import_module(point.module)


def _module(name: str) -> ModuleType:
    with _told(name, f"Mend it; `python -c 'import {name}'` shows the same."):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ConfigError(
                f"plugins names {name}, and Python finds no module {error.name}. Install the "
                "package that holds it, or add its folder to PYTHONPATH on every host. Give the "
                "dotted name of a module, or the path of a file that ends in .py.",
                keys=("plugins",),
            ) from None


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            f"plugins names the file {path}, and there is none. Paths start at the folder in which "
            "the command is typed; every host must see the file under the same path.",
            keys=("plugins",),
        )
    # Two files of one name in two folders are two modules.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"brewhouse_plugin_{path.stem}_{place}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    try:
        with _told(str(path), f"Mend it; `python {path}` shows the same."):
            spec.loader.exec_module(module)
    except ConfigError:
        del sys.modules[name]
        raise
    return module


def _note(key: str, module: ModuleType, origin: str) -> None:
    record = {"plugin": key, "from": origin}
    if module.__file__ is not None:
        record["sha256"] = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    _loaded[key] = record


@contextmanager
def _told(name: str, cure: str) -> Iterator[None]:
    """Turn whatever a plugin raises into an error that says whose it is."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the module {name} under plugins fails while it is imported: "
            f"{type(error).__name__}: {error}. {cure}",
            keys=("plugins",),
        ) from error
