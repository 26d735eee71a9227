"""Words of a command line, made into a tool's arguments by its JSON Schema.

Pure. Only what a shell word can mean is decided here; whether the arguments are right is the server's to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moltis.errors import UsageError


@dataclass(frozen=True, slots=True)
class Argument:
    """One word: `key=text`, or `key:=json` whose value is given as it is."""

    key: str
    text: str
    is_text: bool


def parse(word: str) -> Argument:
    """Read one word.

    Raises:
        UsageError: it has no `=`, or no key.
    """
    key, equals, text = word.partition("=")
    is_text = not key.endswith(":")
    key = key.removesuffix(":")
    if not equals or not key:
        raise UsageError(f"argument {word!r} is not KEY=VALUE", hint="KEY=VALUE, KEY:=JSON, or --json '{...}'")
    return Argument(key, text, is_text)


def assemble(given: Sequence[Argument], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments object.

    Raises:
        UsageError: a value that cannot be what the schema asks for, or a key given twice that is no array.
    """
    arguments: dict[str, Any] = {}
    for key in dict.fromkeys(argument.key for argument in given):
        same = [argument for argument in given if argument.key == key]
        wanted = _property(schema, key)
        if len(same) == 1:
            arguments[key] = _value(same[0], wanted, schema)
        elif "array" in types_of(wanted, schema):
            arguments[key] = [_value(argument, _items(wanted, schema), schema) for argument in same]
        else:
            raise UsageError(f"argument {key!r} is given {len(same)} times")
    return arguments


def types_of(schema: Any, root: Mapping[str, Any]) -> set[str]:
    """Return the JSON types that a schema allows, by local `$ref`, `anyOf`, `oneOf`, `allOf` too; none if unsaid."""
    found: set[str] = set()
    for part in _reach(schema, root):
        written = part.get("type")
        found.update(t for t in (written if isinstance(written, list) else [written]) if isinstance(t, str))
    return found


def _reach(schema: Any, root: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a schema and all that it stands for, each once: a schema may refer to itself."""
    reached: dict[int, dict[str, Any]] = {}
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or id(part) in reached:
            continue
        reached[id(part)] = part
        waiting.append(_referred(part.get("$ref"), root))
        for word in ("anyOf", "oneOf", "allOf"):
            branches = part.get(word)
            waiting.extend(branches if isinstance(branches, list) else ())
    return list(reached.values())


def _referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """Follow a local JSON Pointer (RFC 6901); anything else is not known here."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    target: Any = root
    for part in reference[2:].split("/"):
        target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
    return target


def _property(schema: Mapping[str, Any], key: str) -> Any:
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, dict) else None


def _items(schema: Any, root: Mapping[str, Any]) -> Any:
    return next((part["items"] for part in _reach(schema, root) if "items" in part), None)


def _value(argument: Argument, wanted: Any, root: Mapping[str, Any]) -> Any:
    if not argument.is_text:
        return _json(argument, "JSON")
    types = types_of(wanted, root)
    if not types or "string" in types:
        return argument.text
    if "null" in types and argument.text == "null":
        return None
    if "boolean" in types and argument.text in ("true", "false"):
        return argument.text == "true"
    value = _json(argument, " or ".join(sorted(types)))
    if not any(_is(value, t) for t in types):
        raise _refused(argument, " or ".join(sorted(types)))
    return value


def _is(value: Any, json_type: str) -> bool:
    match json_type:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case _:
            return False


def _json(argument: Argument, wanted: str) -> Any:
    try:
        return json.loads(argument.text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _refused(argument, wanted) from None


def _no_constant(word: str) -> Any:
    """Refuse NaN and Infinity, which Python reads and JSON does not have (RFC 8259 section 6)."""
    raise ValueError(word)


def _refused(argument: Argument, wanted: str) -> UsageError:
    return UsageError(f"argument {argument.key!r} must be {wanted}, not {argument.text!r}")
