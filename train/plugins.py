"""A user's own tasks, sources and students: modules that register them when imported."""

import importlib
from collections.abc import Sequence

from train.errors import ConfigError


def load_plugins(modules: Sequence[str]) -> None:
    """Import each module named under `plugins:`, in order; a module that is loaded stays as it is.

    Raises:
        ConfigError: A module that is not found, or that fails while it is imported.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _failed(name, error) from error
            raise ConfigError(
                f"plugins names {name}, and Python finds no module {error.name}. Install the "
                "package that holds it, or add its folder to PYTHONPATH on every host. Give the "
                "dotted name of the module, not a file.",
                keys=("plugins",),
            ) from None
        except Exception as error:
            raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the module {name} under plugins fails while it is imported: "
        f"{type(error).__name__}: {error}. Mend it; `python -c 'import {name}'` shows the same.",
        keys=("plugins",),
    )
