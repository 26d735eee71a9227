"""The elements of JSON arrays and the members of JSON objects, where there may be too many to look at; and what of them
is empty.

A message of 16 MiB can have eight million of them, and to make an object of each takes half a second and more, only to
say that they are too many. To pass over them takes a tenth of that. Languages differ in what an empty list is on the
wire: null (a nil slice of Go), `{}` (an empty table of Lua), and an empty object is `[]` (PHP). What is empty says the
same in each of them. Pure.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from moltis.steps import Steps

MAX_OTHER_BYTES: Final = 64 * 1024
"""Of an object beside the members that may be long."""

_FEW: Final = 200_000
"""So many objects are made in 15 ms."""

_ARRAY: Final = msgspec.json.Decoder(list[Raw])


def elements(array: bytes | Raw, most: int) -> list[Raw]:
    """Return the first elements of an array as JSON. `most`: one of few constants.

    Raises:
        msgspec.MsgspecError, RecursionError: it is no JSON array.
    """
    # Between elements stand commas, and one byte is counted faster than anything is decoded.
    if bytes(array).count(b",") < max(most, _FEW):
        return _ARRAY.decode(array)[:most]
    return [raw for raw in msgspec.structs.astuple(_first(most).decode(array)) if raw is not UNSET]


def members(object: bytes | Raw) -> dict[str, Raw]:
    """Return the members of an object that MCP has.

    Raises:
        ValueError: there is too much in it that MCP does not know, or gives no room.
        msgspec.MsgspecError, RecursionError: it is no JSON object.
    """
    size = len(bytes(object))
    if size > MAX_OTHER_BYTES:
        known = msgspec.structs.astuple(_LONG.decode(object))
        if size - sum(len(bytes(raw)) for raw in known) > MAX_OTHER_BYTES:
            raise ValueError("an object has too much in it that is not known")
    return _MEMBERS.decode(object)


class Extent(NamedTuple):
    """How much there is of an object, in bytes: of its `_meta`, and of what MCP does not know.

    is_wide: whether it may have so many members that to make an object of each takes long.
    """

    meta: int
    other: int
    is_wide: bool


def extent(object: Raw) -> Steps[Extent]:
    """Return in steps how much there is of an object that is long; nothing is made of its members.

    Raises:
        msgspec.MsgspecError, RecursionError: it is no JSON object.
    """
    known = _LONG.decode(object)
    yield
    other = len(object) - sum(map(len, msgspec.structs.astuple(known)))
    return Extent(len(known.meta), other, other > MAX_OTHER_BYTES and bytes(object).count(b",") > _FEW)


class _Long(msgspec.Struct, rename="camel"):
    """What may be long in objects of MCP."""

    input_schema: Raw = Raw()
    output_schema: Raw = Raw()
    description: Raw = Raw()
    annotations: Raw = Raw()
    icons: Raw = Raw()
    arguments: Raw = Raw()
    properties: Raw = Raw()
    defs: Raw = msgspec.field(name="$defs", default=Raw())
    definitions: Raw = Raw()
    content: Raw = Raw()
    contents: Raw = Raw()
    structured_content: Raw = Raw()
    messages: Raw = Raw()
    system_prompt: Raw = Raw()
    tools: Raw = Raw()
    metadata: Raw = Raw()
    completion: Raw = Raw()
    values: Raw = Raw()
    uri: Raw = Raw()
    text: Raw = Raw()
    data: Raw = Raw()
    blob: Raw = Raw()
    resource: Raw = Raw()
    params: Raw = Raw()
    capabilities: Raw = Raw()
    client_info: Raw = Raw()
    argument: Raw = Raw()
    context: Raw = Raw()
    input_responses: Raw = Raw()
    request_state: Raw = Raw()
    meta: Raw = msgspec.field(name="_meta", default=Raw())


_LONG: Final = msgspec.json.Decoder(_Long)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


@cache
def _first(most: int) -> msgspec.json.Decoder[msgspec.Struct]:
    """Return what decodes the first elements and skips the rest: a "struct" with as many fields as are looked at.

    For ten thousand it takes 30 ms to make, so nobody makes it who does not need it.
    """
    fields = [(f"at_{n}", Raw | UnsetType, UNSET) for n in range(most)]
    return msgspec.json.Decoder(msgspec.defstruct("First", fields, array_like=True, gc=False))


_EMPTY_BYTES: Final = 64
"""What is longer, white space included, is not empty."""

_KINDS: Final = {b'"': "a text", b"{": "an object", b"[": "a list", b"n": "null", b"t": "true", b"f": "false"}


def is_empty(value: bytes | Raw) -> bool:
    """Return whether a JSON value is null, false, 0, or a text, list or object with nothing in it. Never raises."""
    text = bytes(value)
    try:
        return len(text) <= _EMPTY_BYTES and not msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return False


def kind_of(value: bytes | Raw) -> str:
    """Return in words what a JSON value is, without what it holds."""
    return _KINDS.get(bytes(value).lstrip(b" \t\r\n")[:1], "a number")
