"""Whether an item that a server lists is one by the schema of MCP, and what is left of it where it is not.

Pure. Hosts check a list as a whole: one item that is none costs them the tools of all servers. A member that may be
absent and is not what it must be is left out; an item that is nothing without it is not listed. `null` for a member
that may be absent is how some languages write absent: it goes without a word. What no revision of MCP allows is here,
what only some do not is in `revisions`. A schema is looked at as far as hosts look at it when they list: its outermost
members, and of an `outputSchema` whether it can be compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from moltis.jsonrpc import MALFORMED
from moltis.patterns import later
from moltis.session.listing import Item, Kind

MAX_COMMAS: Final = 100_000
"""In an item that is looked at, which takes some 10 ms then."""
MAX_DEPTH: Final = 64
MAX_PATTERN_CHARS: Final = 1000

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[Raw])
_LOOKED_AT: Final = msgspec.json.Decoder(float_hook=len)
"""Of a schema that is read to be looked at: a number that is no double (`1e400`) is one all the same."""
_ENCODE: Final = msgspec.json.encode
_NULL: Final = b"null"


class Checked(NamedTuple):
    """raw: the item as it may be listed, the same object where nothing is wrong; None where it may not.

    reason: what was wrong, in words; empty where nothing was, or nothing worth a word.
    """

    raw: bytes | None
    reason: str = ""


def checked(kind: Kind, item: Item) -> Checked:
    """Look at an item."""
    raw = item.raw
    if raw.count(b",") > MAX_COMMAS:
        return Checked(None, "it has too many members to be looked at: not listed")
    try:
        whole = _whole(kind).decode(raw)
        if kind is not Kind.TOOLS or whole.output_schema is UNSET:
            return Checked(raw)
    except MALFORMED:
        pass
    try:
        members = _MEMBERS.decode(raw)
        reasons: list[str] = []
        found = _kept(members, _spec_of(kind), "", reasons)
        if kind is Kind.TOOLS:
            found = _tool(members, found, reasons)
        elif kind is not Kind.PROMPTS:
            found = _named(item.name, found)
    except _Useless as fault:
        return Checked(None, f"{fault}: not listed")
    except MALFORMED:
        return Checked(None, "it cannot be read: not listed")
    if found == members:
        return Checked(raw)
    return Checked(_ENCODE(found), "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if reasons[3:] else ""))


class _Useless(Exception):
    """Nothing is left of it. The text begins with what is wrong."""


# --- the shapes of what may be listed as it is

Text = str | UnsetType
Flag = bool | UnsetType
Number = int | float | UnsetType
Object = dict[str, Raw] | UnsetType
Properties = dict[str, dict[str, Raw] | bool] | UnsetType
Words = list[str] | UnsetType


class _Icon(msgspec.Struct, rename="camel"):
    src: str
    mime_type: Text = UNSET
    sizes: Words | str = UNSET
    theme: Text = UNSET


class _Annotations(msgspec.Struct, rename="camel"):
    audience: list[Literal["user", "assistant"]] | UnsetType = UNSET
    priority: Number = UNSET
    last_modified: Text = UNSET


class _Hints(msgspec.Struct, rename="camel"):
    title: Text = UNSET
    read_only_hint: Flag = UNSET
    destructive_hint: Flag = UNSET
    idempotent_hint: Flag = UNSET
    open_world_hint: Flag = UNSET


class _Execution(msgspec.Struct, rename="camel"):
    task_support: Literal["forbidden", "optional"] | UnsetType = UNSET


class _Schema(msgspec.Struct):
    schema: Text = msgspec.field(name="$schema", default=UNSET)
    properties: Properties = UNSET
    required: Words = UNSET


class _InputSchema(_Schema, kw_only=True):
    type: Literal["object"]


class _Argument(msgspec.Struct):
    name: str
    title: Text = UNSET
    description: Text = UNSET
    required: Flag = UNSET


class _Common(msgspec.Struct, rename="camel", kw_only=True):
    name: str
    title: Text = UNSET
    description: Text = UNSET
    icons: list[_Icon] | UnsetType = UNSET
    meta: Object = msgspec.field(name="_meta", default=UNSET)


class _Tool(_Common, kw_only=True, rename="camel"):
    input_schema: _InputSchema
    output_schema: _Schema | UnsetType = UNSET
    annotations: _Hints | UnsetType = UNSET
    execution: _Execution | UnsetType = UNSET


class _Prompt(_Common, kw_only=True):
    arguments: list[_Argument] | UnsetType = UNSET


class _Located(_Common, kw_only=True, rename="camel"):
    mime_type: Text = UNSET
    annotations: _Annotations | UnsetType = UNSET


class _Resource(_Located, kw_only=True):
    uri: str
    size: Number = UNSET


class _Template(_Located, kw_only=True, rename="camel"):
    uri_template: str


_SHAPES: Final[Mapping[Kind, type[msgspec.Struct]]] = {
    Kind.TOOLS: _Tool,
    Kind.PROMPTS: _Prompt,
    Kind.RESOURCES: _Resource,
    Kind.TEMPLATES: _Template,
}


@cache
def _whole(kind: Kind) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_SHAPES[kind])


# --- what is left of one that may not

Mend = Callable[[Raw, str, list[str]], Raw]
"""Returns what is left of a member (its JSON, its path, the reasons so far); raises `_Useless` for nothing."""


class _Member(NamedTuple):
    decoder: msgspec.json.Decoder[Any]
    words: str
    mend: Mend | None = None


_Spec = Mapping[str, _Member]


def _kept(members: Mapping[str, Raw], spec: _Spec, path: str, reasons: list[str]) -> dict[str, Raw]:
    """Return the members but those that are not what they must be."""
    kept: dict[str, Raw] = {}
    for name, raw in members.items():
        member = spec.get(name)
        if member is None or _fits(member, raw):
            kept[name] = raw
        elif bytes(raw) != _NULL:
            shown = f"{path}{name}"
            try:
                kept[name] = _mended(member, raw, shown, reasons)
            except (*MALFORMED, _Useless):
                reasons.append(f"{shown} is not {member.words}: left out")
    return kept


def _fits(member: _Member, raw: Raw) -> bool:
    try:
        member.decoder.decode(raw)
    except MALFORMED:
        return False
    return True


def _mended(member: _Member, raw: Raw, path: str, reasons: list[str]) -> Raw:
    if member.mend is None:
        raise _Useless(path)
    return member.mend(raw, path, reasons)


def _object(spec: _Spec) -> Mend:
    def mend(raw: Raw, path: str, reasons: list[str]) -> Raw:
        return Raw(_ENCODE(_kept(_MEMBERS.decode(raw), spec, f"{path}.", reasons)))

    return mend


def _each(spec: _Spec, needs: str) -> Mend:
    """Mend a list of objects, each of which needs a member that is a text."""

    def mend(raw: Raw, path: str, reasons: list[str]) -> Raw:
        kept: list[dict[str, Raw]] = []
        for index, element in enumerate(_ELEMENTS.decode(raw)):
            shown = f"{path}[{index}]"
            try:
                members = _MEMBERS.decode(element)
                msgspec.json.decode(members[needs], type=str)
            except (*MALFORMED, KeyError):
                reasons.append(f"{shown} has no {needs}: left out")
            else:
                kept.append(_kept(members, spec, f"{shown}.", reasons))
        return Raw(_ENCODE(kept))

    return mend


def _spec(shape: type[msgspec.Struct], **mends: Mend) -> _Spec:
    """Return what the members of a shape must be."""
    return {
        field.encode_name: _Member(msgspec.json.Decoder(field.type), _in_words(field.type), mends.get(field.name))
        for field in msgspec.structs.fields(shape)
    }


def _in_words(type: Any) -> str:
    return next((words for shape, words in _WORDS if shape == type), "what MCP has there")


_WORDS: Final[tuple[tuple[Any, str], ...]] = (
    (str, "a text"),
    (Text, "a text"),
    (Flag, "true or false"),
    (Number, "a number"),
    (Object, "an object"),
    (Words, "a list of texts"),
    (Properties, "an object of schemas"),
    (list[_Icon] | UnsetType, "a list of icons"),
    (list[_Argument] | UnsetType, "a list of arguments"),
    (_Hints | UnsetType, "an object"),
    (_Annotations | UnsetType, "an object"),
    (_Schema | UnsetType, "an object"),
)


def _properties(raw: Raw, path: str, reasons: list[str]) -> Raw:
    kept: dict[str, Raw] = {}
    for name, schema in _MEMBERS.decode(raw).items():
        is_schema = bytes(schema)[:1] == b"{" or bytes(schema) in (b"true", b"false")
        if not is_schema:
            reasons.append(f"{path}.{_shown(name)} is no schema: anything is taken")
        kept[name] = schema if is_schema else Raw(b"{}")
    return Raw(_ENCODE(kept))


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 40 else "..."


@cache
def _of_schema() -> _Spec:
    return _spec(_Schema, properties=_properties)


@cache
def _spec_of(kind: Kind) -> _Spec:
    """Return what the members of an item must be; made when the first is not, which is rare."""
    icons = _each(_spec(_Icon), "src")
    if kind is Kind.TOOLS:
        hints, output = _object(_spec(_Hints)), _object(_of_schema())
        spec = _spec(_Tool, icons=icons, annotations=hints, output_schema=output)
        return {name: member for name, member in spec.items() if name not in ("name", "inputSchema", "execution")}
    if kind is Kind.PROMPTS:
        return _spec(_Prompt, icons=icons, arguments=_each(_spec(_Argument), "name"))
    return _spec(_SHAPES[kind], icons=icons, annotations=_object(_spec(_Annotations)))


def _named(address: str, found: dict[str, Raw]) -> dict[str, Raw]:
    """Return a resource with the name that it must have; without one it is called by its address."""
    return found if "name" in found else {**found, "name": Raw(_ENCODE(address))}


# --- tools


def _tool(members: Mapping[str, Raw], found: dict[str, Raw], reasons: list[str]) -> dict[str, Raw]:
    made: dict[str, Raw] = {**found, "inputSchema": _input_schema(members.get("inputSchema", Raw(_NULL)), reasons)}
    if "execution" in members and not _is_execution(members["execution"], reasons):
        del made["execution"]
    output = made.get("outputSchema")
    if output is not None and (why := _not_compiled(output)) is not None:
        del made["outputSchema"]
        reasons.append(f"outputSchema has {why}: left out")
    return made


def _input_schema(raw: Raw, reasons: list[str]) -> Raw:
    if bytes(raw) == _NULL:
        reasons.append("inputSchema is missing: any arguments are taken")
        return Raw(b'{"type":"object"}')
    try:
        members = _MEMBERS.decode(raw)
    except MALFORMED:
        raise _Useless("inputSchema is not an object") from None
    found = _kept(members, _of_schema(), "inputSchema.", reasons)
    type = found.get("type", Raw(_NULL))
    if bytes(type) == _NULL:
        found = {"type": Raw(b'"object"'), **{name: raw for name, raw in found.items() if name != "type"}}
        reasons.append("inputSchema has no type: it is an object")
    elif msgspec.json.decode(type) != "object":
        raise _Useless("inputSchema is not of type object")
    return raw if found == members else Raw(_ENCODE(found))


def _is_execution(raw: Raw, reasons: list[str]) -> bool:
    if bytes(raw) == _NULL:
        return False
    try:
        support = msgspec.json.decode(raw, type=dict[str, Any]).get("taskSupport")
    except MALFORMED:
        support = raw
    if support == "required":
        raise _Useless("it runs as a task only, which only hosts of /servers/NAME/mcp can ask for")
    if support in (None, "forbidden", "optional"):
        return support is not None or b"taskSupport" not in bytes(raw)
    reasons.append("execution is not what MCP has there: left out")
    return False


_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_ONE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_SEVERAL: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_NOT_OF_BROWSERS: Final = later(r"\(\?(?:P[<=>]|[aiLmsux-]+[:)]|#)|\\[AZz]")
"""What patterns of other languages have and those of JSON Schema (ECMA-262) do not."""


def _not_compiled(raw: Raw) -> str | None:
    """Say why a host that compiles the schema when it lists could not; None where nothing of that is to be seen."""
    try:
        root = _LOOKED_AT.decode(raw)
    except MALFORMED:
        return "what cannot be read"
    waiting = [(root, 0)]
    while waiting:
        schema, depth = waiting.pop()
        if not isinstance(schema, dict):
            continue
        if depth > MAX_DEPTH:
            return f"more than {MAX_DEPTH} levels"
        if why := _fault_of(schema, root):
            return why
        found = [schema.get(key) for key in _ONE]
        for key in _SEVERAL:
            found += schema[key] if isinstance(schema.get(key), list) else []
        for key in _BY_NAME:
            found += schema[key].values() if isinstance(schema.get(key), dict) else []
        waiting += [(one, depth + 1) for one in found]
    return None


def _fault_of(schema: dict[str, Any], root: Any) -> str | None:
    type, reference, pattern = schema.get("type"), schema.get("$ref"), schema.get("pattern")
    types = type if isinstance(type, list) else [type]
    if type is not None and not all(isinstance(one, str) and one in _TYPES for one in types):
        return "a type that JSON Schema has not"
    if reference is not None and not _leads_somewhere(reference, root):
        return "a $ref that leads nowhere in it"
    if pattern is not None and not _is_pattern(pattern):
        return "a pattern that is none of JSON Schema"
    return None


def _leads_somewhere(reference: Any, root: Any) -> bool:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return isinstance(reference, str) and isinstance(root, dict) and reference == root.get("$id")
    if not reference.startswith("#/"):
        return True  # the whole, or an anchor
    at = root
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and key in at:
            at = at[key]
        elif isinstance(at, list) and key.isdecimal() and int(key) < len(at):
            at = at[int(key)]
        else:
            return "%" in part
    return True


def _is_pattern(pattern: Any) -> bool:
    if not isinstance(pattern, str) or _NOT_OF_BROWSERS.search(pattern):
        return False
    if len(pattern) > MAX_PATTERN_CHARS or re.search(r"\\[pPku]|\(\?<", pattern):
        return True  # Python's are others there
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
