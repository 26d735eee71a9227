"""Arguments of a tool call that are repeated in HTTP headers: `x-mcp-header` (MCP 2026-07-28, Transports; SEP-2243).

Pure. A tool marks properties of its input schema; a call then carries their values as `Mcp-Param-NAME`. A tool is taken
as the specification takes it: marked rightly or not offered at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from moltis.jsonrpc import MALFORMED
from moltis.transport.remote.headers import encode_header_value

KEY: Final = "x-mcp-header"
SPELLED: Final = KEY.encode()
PREFIX: Final = "Mcp-Param-"
MIRRORED_TYPES: Final = ("string", "integer", "boolean")
"""`number` is none of them: two languages do not write the same float alike."""

MAX_HEADERS: Final = 64
MAX_NAME_CHARS: Final = 128
MAX_DEPTH: Final = 32
"""Differs: the specification has no such limits. HTTP servers take about a hundred headers, and 16 KiB of them."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCALAR = msgspec.json.Decoder(str | bool | int | float | None)

# Where JSON Schema 2020-12 has schemas in schemas. Through `properties` a marked property has one place in the
# arguments; through any other of these it has not. What is not listed is data (`default`, `enum`) or a reference.
_ONE: Final = frozenset(
    {"additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_MANY: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties"})


class Invalid(msgspec.Struct, frozen=True):
    """A tool that must not be offered. `reason` is ours, and completes "its schema "."""

    reason: str


class _Place(msgspec.Struct):
    """One level of the arguments: which members have a header, and which have such members in them."""

    names: dict[str, str] = msgspec.field(default_factory=dict)
    inner: dict[str, _Place] = msgspec.field(default_factory=dict)


class Mirror:
    """What to repeat of one tool's arguments. Made by `mirror_of`."""

    __slots__ = ("_root",)

    def __init__(self, root: _Place) -> None:
        self._root = root

    def names(self) -> frozenset[str]:
        """Return the names of all headers that a call may have, in lower case."""
        return frozenset(_all_names(self._root))

    def headers(self, arguments: bytes | None) -> tuple[tuple[str, str], ...]:
        """Return the headers of a call with these arguments (JSON). What is absent, null or compound has none."""
        return () if arguments is None else tuple(_headers(self._root, arguments))


class _Tool(msgspec.Struct):
    inputSchema: Any = None  # noqa: N815 - the wire's spelling


_TOOL = msgspec.json.Decoder(_Tool)


def mirror_of(tool: bytes) -> Mirror | Invalid | None:
    """Look at one tool as it was listed; None for one that marks nothing, as nearly all do."""
    marked = SPELLED in tool
    if not marked and rb"\u00" not in tool:  # JSON may also spell the key with escapes
        return None
    try:
        schema = _TOOL.decode(tool).inputSchema
    except MALFORMED:
        return Invalid("cannot be read") if marked else None
    root = _Place()
    seen: set[str] = set()
    for path, found in _marked(schema):
        problem = _problem(path, found, seen)
        if problem:
            return Invalid(problem)
        assert path
        place = root
        *above, last = path
        for name in above:
            place = place.inner.setdefault(name, _Place())
        place.names[last] = PREFIX + found[KEY]
    return Mirror(root) if seen else None


_Path = tuple["_Path", str] | tuple[()] | None
"""From the root: the path before it and a name; None where the arguments have no one place for it."""


def _marked(root: Any) -> Iterator[tuple[list[str] | None, dict[str, Any]]]:
    """Find the schemas that have the key, each with its path, which is empty for the root itself."""
    stack: list[tuple[_Path, Any]] = [((), root)]
    while stack:
        path, schema = stack.pop()
        if not isinstance(schema, dict):
            continue
        if KEY in schema:
            yield _names(path), schema
        for word, value in schema.items():
            if word == "properties" and isinstance(value, dict):
                stack.extend((None if path is None else (path, name), inner) for name, inner in value.items())
            elif word in _ONE:
                stack.append((None, value))
            elif word in _MANY and isinstance(value, list):
                stack.extend((None, inner) for inner in value)
            elif word in _NAMED and isinstance(value, dict):
                stack.extend((None, inner) for inner in value.values())


def _names(path: _Path) -> list[str] | None:
    if path is None:
        return None
    names: list[str] = []
    while path:
        path, name = path
        names.append(name)
    return names[::-1]


def _problem(path: list[str] | None, schema: dict[str, Any], seen: set[str]) -> str | None:
    """Say what is wrong with one mark, or note it in `seen`."""
    name = schema[KEY]
    if not path or len(path) > MAX_DEPTH:
        return f"has {KEY} where no argument is"
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not _TOKEN.fullmatch(name):
        return f"has an {KEY} that is no header name"
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in MIRRORED_TYPES:
        return f"has {KEY} on what is neither string, integer nor boolean"
    if name.lower() in seen:
        return f"has the same {KEY} twice"
    if len(seen) >= MAX_HEADERS:
        return f"has more than {MAX_HEADERS} of {KEY}"
    seen.add(name.lower())
    return None


def _all_names(place: _Place) -> Iterator[str]:
    yield from (name.lower() for name in place.names.values())
    for inner in place.inner.values():
        yield from _all_names(inner)


def _headers(place: _Place, arguments: bytes | msgspec.Raw) -> Iterator[tuple[str, str]]:
    try:
        members = _MEMBERS.decode(arguments)
    except MALFORMED:
        return  # not an object
    for member, name in place.names.items():
        text = _rendered(members[member]) if member in members else None
        if text is not None:
            yield name, encode_header_value(text)
    for member, inner in place.inner.items():
        if member in members:
            yield from _headers(inner, members[member])


def _rendered(value: msgspec.Raw) -> str | None:
    try:
        scalar = _SCALAR.decode(value)
    except MALFORMED:
        return None
    match scalar:
        case None:
            return None
        case bool():
            return "true" if scalar else "false"
        case _:
            return str(scalar)
