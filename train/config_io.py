"""YAML and `key=value` overrides into checked dataclasses, and back. Knows no particular config.

The YAML is the 1.2 core that people expect: `3e-4` is a number, `no` is text, a date is text, a key
that stands twice is an error. Every value keeps where it came from, so that a message can say it.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from train.config_wanted import describe, schema_at
from train.errors import ConfigError

T = TypeVar("T")
KeyPath = tuple[str, ...]
Origins = dict[KeyPath, str]
"""Where the value of each key was written: `run.yaml:12` or `override learning_rate=abc`."""

_SCALARS = (str, int, float, bool, type(None))


class _Loader(yaml.SafeLoader):
    """The YAML 1.2 core schema."""


_Loader.yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML version would not read back as text."""


_RESOLVERS: list[tuple[str, str, str]] = [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
]
for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(f"^(?:{_pattern})$"),
            ["" if character == "\0" else character for character in _first],
        )


# YAML folds lines at these characters too, and would give back a space; in double quotes they are
# written as escapes.
_LINE_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _LINE_BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)).replace("_", ""))


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"_|\.(?=inf|nan)", "", str(loader.construct_scalar(node)).lower()))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def read_yaml_file(path: Path) -> tuple[dict[str, Any], Origins]:
    """Read one YAML mapping and where each of its keys stands.

    Raises:
        ConfigError: The file cannot be read, is no YAML, is empty or is not a mapping of keys.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"config {path} {what}. Give the path of a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config {path} is not UTF-8 text: byte {error.start} cannot be read. "
            "Is it a YAML file? Save it as UTF-8."
        ) from None
    origins: Origins = {}
    data = _parse(text, str(path), origins)
    if data is None:
        raise ConfigError(f"config {path} is empty. Start from a file in launch/recipes.")
    if not isinstance(data, dict):
        raise ConfigError(
            f"config {path} holds {_shown(data)}, not keys. Write one `key: value` per line."
        )
    return data, origins


def apply_override(data: dict[str, Any], origins: Origins, override: str) -> None:
    """Set one `section.key=value` in place; the value is read as YAML.

    Raises:
        ConfigError: No `=`, a leading dash, an unreadable value, or a path through a plain value.
    """
    dotted, equals, text = override.partition("=")
    if dotted.startswith("-"):
        raise ConfigError(f"override {override!r} starts with a dash. Write {override.lstrip('-')}")
    path = tuple(dotted.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(
            f"override {override!r} is not key=value. Write learning_rate=1e-4, or "
            "mixture.targets_per_tree=8 for a key inside a section."
        )
    source = f"override {override}"
    inner: Origins = {}
    value = _parse(text, source, inner)
    section = data
    for depth, key in enumerate(path[:-1], start=1):
        child = section.get(key)
        if child is None:
            child = section[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"{source}: {'.'.join(path[:depth])} is {_shown(child)}, which has no keys inside. "
                f"Set {'.'.join(path[:depth])} itself."
            )
        section = child
    section[path[-1]] = value
    for stale in [known for known in origins if known[: len(path)] == path]:
        del origins[stale]
    origins[path] = source
    origins.update({(*path, *below): source for below in inner})


def build(
    cls: type[T],
    data: Mapping[str, Any],
    origins: Origins,
    *,
    aliases: Mapping[str, str] | None = None,
) -> T:
    """Check `data` against a pydantic dataclass and make it.

    Args:
        cls: The dataclass; nested dataclasses are the sections.
        data: Plain values, as YAML gives them.
        origins: Where each value was written, for the messages.
        aliases: A key that other trainers use -> what to write here.

    Raises:
        ConfigError: All problems at once: unknown keys with the nearest known one, wrong types and
            values with what is wanted, missing keys, combinations that cannot work.
    """
    unknown = list(_unknown_keys(cls, data, (), origins, _Advice(cls, aliases or {})))
    if unknown:
        raise _joined(unknown)
    adapter = TypeAdapter(cls)
    try:
        # Strict checks take lists for tuples only from JSON, and YAML knows no tuples.
        return adapter.validate_json(json.dumps(data))
    except ValidationError as error:
        schema = adapter.json_schema()
        raise _joined(_problems(error, data, origins, schema)) from None


def plain(value: Any) -> dict[str, Any]:
    """A config as dictionaries, lists and scalars, every key present."""
    data: dict[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
    return data


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text that `read_yaml_file` reads back to equal values, keys in their order."""
    text: str = yaml.dump(
        dict(data),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    return text


def _parse(text: str, source: str, origins: Origins) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, (), source, origins)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        mark = getattr(error, "problem_mark", None)
        at = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{source}{at}: not readable as YAML: {problem}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: an alias contains itself. Write the values out.") from None


def _value(loader: _Loader, node: yaml.Node, path: KeyPath, source: str, origins: Origins) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, source, origins)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, child, path, source, {}) for child in node.value]
    value = loader.construct_object(node, deep=True)
    if not isinstance(value, _SCALARS):
        raise ConfigError(
            f"{source}:{node.start_mark.line + 1}: {'.'.join(path)}: the tag {node.tag} makes "
            f"{type(value).__name__}; a config holds text, numbers, true, false and null."
        )
    return value


def _mapping(
    loader: _Loader, node: yaml.MappingNode, path: KeyPath, source: str, origins: Origins
) -> dict[str, Any]:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        if key in seen and key != "<<":
            raise ConfigError(
                f"{source}:{line}: {'.'.join((*path, key))} stands already in line {seen[key]}. "
                "Keep one of the two."
            )
        seen[key] = line
    loader.flatten_mapping(node)  # after the check: a key may override what `<<` brings
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _value(loader, key_node, path, source, {})
        if not isinstance(key, str):
            raise ConfigError(
                f"{source}:{line}: the key {_shown(key)} is not text. Put it in quotes."
            )
        here = (*path, key)
        origins[here] = source if source.startswith("override ") else f"{source}:{line}"
        data[key] = _value(loader, value_node, here, source, origins)
    return data


def _sections(cls: type) -> dict[str, type]:
    """Fields of a dataclass that are dataclasses themselves, `X | None` included."""
    hints = typing.get_type_hints(cls)
    found = {}
    for name, hint in hints.items():
        union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        for choice in typing.get_args(hint) if union else (hint,):
            if dataclasses.is_dataclass(choice) and isinstance(choice, type):
                found[name] = choice
    return found


def _dotted_keys(cls: type, prefix: KeyPath = ()) -> Iterator[KeyPath]:
    sections = _sections(cls)
    for field in dataclasses.fields(cls):
        yield (*prefix, field.name)
        if field.name in sections:
            yield from _dotted_keys(sections[field.name], (*prefix, field.name))


@dataclasses.dataclass(frozen=True, slots=True)
class _Advice:
    """What to write in place of an unknown key."""

    root: type
    aliases: Mapping[str, str]

    def on(self, key: str, section: type, path: KeyPath) -> str:
        if not path and key.lower() in self.aliases:
            return self.aliases[key.lower()]
        known = [field.name for field in dataclasses.fields(section)]
        near = get_close_matches(key, known, n=1, cutoff=0.7)
        if near:
            return f"Did you mean {'.'.join((*path, near[0]))}?"
        elsewhere = [dotted for dotted in _dotted_keys(self.root) if dotted[-1] == key]
        if elsewhere:
            return f"It belongs elsewhere: write {'.'.join(elsewhere[0])}."
        near = get_close_matches(key, known, n=3, cutoff=0.4)
        return f"Nearest here: {', '.join(near)}." if near else f"Known here: {', '.join(known)}."


def _unknown_keys(
    section: type, data: Mapping[str, Any], path: KeyPath, origins: Origins, advice: _Advice
) -> Iterator[ConfigError]:
    known = {field.name for field in dataclasses.fields(section)}
    sections = _sections(section)
    for key, value in data.items():
        if key not in known:
            where = ".".join(path) or "top level"
            text = f"unknown key {key} (section: {where}). {advice.on(key, section, path)}"
            yield _located(text, (*path, key), origins)
        elif key in sections and isinstance(value, dict):
            yield from _unknown_keys(sections[key], value, (*path, key), origins, advice)


def _problems(
    error: ValidationError, data: Mapping[str, Any], origins: Origins, schema: Mapping[str, Any]
) -> list[ConfigError]:
    found: dict[KeyPath, ConfigError] = {}
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        path = _reached(detail["loc"], data)
        if isinstance(cause, ValueError):
            keys = getattr(cause, "keys", ()) or (".".join(_named(str(cause), path, origins)),)
            located = _located(str(cause), tuple(keys[0].split(".")), origins)
            found[(*path, str(cause))] = ConfigError(str(located), keys=keys)
        elif detail["type"] == "missing" and isinstance(_at(data, path), dict):
            path = (*path, str(detail["loc"][-1]))
            about = schema_at(schema, path).get("description", "").partition(". ")[0].strip(" .")
            text = f"{'.'.join(path)} is missing; wanted {describe(schema, path)}. {about}."
            found[path] = _located(text, path, origins)
        else:
            given = _at(data, path)
            text = f"{'.'.join(path)}: got {_shown(given)}, wanted {describe(schema, path, given)}."
            found[path] = _located(text, path, origins)
    return list(found.values())


def _named(text: str, section: KeyPath, origins: Origins) -> KeyPath:
    """The key that a section's own message speaks of: the longest that it names."""
    inside = [path for path in origins if path[: len(section)] == section]
    return max((path for path in inside if ".".join(path) in text), key=len, default=section)


def _reached(loc: tuple[int | str, ...], data: Any) -> KeyPath:
    """The part of pydantic's location that names keys; the rest names branches of a union."""
    path: list[str] = []
    for part in loc:
        if not isinstance(data, dict) or part not in data:
            break
        path.append(str(part))
        data = data[part]
    return tuple(path)


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _located(text: str, path: KeyPath, origins: Origins) -> ConfigError:
    where = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
    return ConfigError(text if where is None else f"{where}: {text}", keys=(".".join(path),))


def _joined(problems: list[ConfigError]) -> ConfigError:
    keys = tuple(key for problem in problems for key in problem.keys)
    if len(problems) == 1:
        return ConfigError(str(problems[0]), keys=keys)
    lines = [f"{len(problems)} problems in the config:", *(f"  - {each}" for each in problems)]
    return ConfigError("\n".join(lines), keys=keys)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
