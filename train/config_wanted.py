"""What a config key takes, in words, out of its JSON schema: the end of "got X, wanted Y"."""

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

Schema = Mapping[str, Any]

_BOUNDS = {
    "minimum": "of at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
_SPOKEN = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section of keys",
    "null": "null",
}


def schema_at(root: Schema, path: tuple[str, ...]) -> Schema:
    """The part of a JSON schema that holds for one dotted key; `{}` where nothing is known."""
    schema = _followed(root, root)
    for key in path:
        inside = [part for part in _branches(root, schema) if part.get("type") == "object"]
        if not inside:
            return {}
        properties = inside[0].get("properties", {})
        schema = properties.get(key) or inside[0].get("additionalProperties") or {}
    return schema if isinstance(schema, Mapping) else {}


def describe(root: Schema, path: tuple[str, ...], given: Any = None) -> str:
    """Say what the key wants, and how to mend `given` where that can be guessed."""
    branches = _branches(root, schema_at(root, path))
    wanted = " or ".join(dict.fromkeys(_phrase(root, branch) for branch in branches)) or "a value"
    return wanted + _hint(branches, given)


def _followed(root: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][str(schema["$ref"]).rpartition("/")[2]]
    return schema


def _branches(root: Schema, schema: Schema) -> list[Schema]:
    schema = _followed(root, schema)
    if "anyOf" not in schema:
        return [schema]
    return [branch for choice in schema["anyOf"] for branch in _branches(root, choice)]


def _choices(branch: Schema) -> list[Any]:
    return list(branch.get("enum", [])) or ([branch["const"]] if "const" in branch else [])


def _phrase(root: Schema, branch: Schema) -> str:
    choices = _choices(branch)
    if choices:
        return ("one of " if len(choices) > 1 else "") + ", ".join(map(str, choices))
    phrase = _NAMES.get(str(branch.get("type")), "a value")
    if branch.get("minLength") or (branch.get("minItems") and "items" in branch):
        phrase = phrase.replace("a list", "a non-empty list").replace("text", "non-empty text")
    if isinstance(branch.get("items"), Mapping):
        entry = _phrase(root, _followed(root, branch["items"]))
        return f"{phrase} of {entry.removeprefix('one of ')}"
    if "prefixItems" in branch:
        parts = [_phrase(root, _followed(root, item)) for item in branch["prefixItems"]]
        return f"a list [{', '.join(parts)}]"
    bounds = [text.format(branch[key]) for key, text in _BOUNDS.items() if key in branch]
    return f"{phrase} {' and '.join(bounds)}" if bounds else phrase


def _hint(branches: list[Schema], given: Any) -> str:
    kinds = {branch.get("type") for branch in branches}
    if isinstance(given, str):
        return _hint_for_text(branches, kinds, given)
    if isinstance(given, int | float) and "string" in kinds:
        if not any(_choices(branch) for branch in branches):
            return f"; put it in quotes: {json.dumps(str(given))}"
    elif isinstance(given, float) and given.is_integer() and "integer" in kinds:
        return f"; write {int(given)}"
    return ""


def _hint_for_text(branches: list[Schema], kinds: set[Any], given: str) -> str:
    choices = [str(choice) for branch in branches for choice in _choices(branch)]
    near = get_close_matches(given, choices, n=1, cutoff=0.6)
    near = near or [choice for choice in choices if given and choice.startswith(given)]
    if near:
        return f"; write {near[0]}"
    if "boolean" in kinds and given.lower() in _SPOKEN:
        return f"; write {_SPOKEN[given.lower()]}"
    if "array" in kinds and given:
        return f"; for one entry write [{given}]"
    if kinds & {"integer", "number"} and _is_number(given):
        return "; write it without quotes"
    return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
