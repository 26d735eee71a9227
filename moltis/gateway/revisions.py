"""What a server lists, answers and asks, made valid in the revision that the host speaks, whatever the server speaks.

Pure, and on bytes: what is valid stays byte for byte. `docs/revisions.md` has the table of all differences; here is
what has to be done about them. A member that an older revision does not know stays, for the objects of every revision
are open, and no SDK refuses it. What a host refuses is a member of another type, and a content block of a kind that it
does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from moltis.jsonrpc import MALFORMED, json_string
from moltis.session.handshake import HANDSHAKE_VERSIONS, MODERN_VERSIONS
from moltis.session.parts import elements, is_empty, members
from moltis.session.results import found_by

MODERN: Final = MODERN_VERSIONS[-1]
LEGACY: Final = HANDSHAKE_VERSIONS[-1]

SAMPLE: Final = "sampling/createMessage"

MAX_COMPLETIONS: Final = 100
"""Values of one `completion/complete` (MCP, Completion); the schema of 2026-07-28 refuses more."""

MAX_BLOCKS: Final = 10_000
"""Content blocks, messages or completions of one result that are looked at. What has more passes as it is."""

MAX_RESULT_BYTES: Final = 2 * 1024 * 1024
"""Of a result that is taken apart. What is longer passes as it is, but for structured content that is no object."""

MAX_TOOL_BYTES: Final = 1024 * 1024
"""Of a tool that is made valid for an older host. Of one that is longer it is told the name and nothing else."""

LEFT_OUT: Final = (
    "The result is structured content that is no object, which this host's revision of MCP does not know, and it is "
    "too long to be told as a text."
)

AUDIO_SINCE: Final = "2025-03-26"
LINKS_SINCE: Final = "2025-06-18"

SEVERAL_SINCE: Final = "2025-11-25"
"""From here on a message of a conversation holds several blocks, those of tools among them."""

_ENCODE: Final = msgspec.json.encode
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


# --- lists


class _Tool(msgspec.Struct, rename="camel"):
    input_schema: Raw = Raw()
    output_schema: Raw = Raw()


class _Schema(msgspec.Struct):
    type: Raw = Raw()
    properties: Raw = Raw()


class _Named(msgspec.Struct):
    name: str


_NAMED: Final = msgspec.json.Decoder(_Named)
_TOOL: Final = msgspec.json.Decoder(_Tool)
_SCHEMA: Final = msgspec.json.Decoder(_Schema)


def tool_for_legacy(raw: bytes) -> bytes:
    """Return a tool as a host up to 2025-11-25 may read it; one that is not valid there costs it all tools.

    From 2026-07-28 on a schema is any JSON Schema (SEP-2106). Before, an `outputSchema` that is not an object's is
    none, and a property is described by an object: `true` is `{}`, and `false` is `{"not": {}}`.
    """
    if b"true" not in raw and b"false" not in raw and b"output" not in raw and b"\\u" not in raw:
        return raw
    if len(raw) > MAX_TOOL_BYTES:
        return _ENCODE({"name": _NAMED.decode(raw).name, "inputSchema": {"type": "object"}})
    try:
        tool = _TOOL.decode(raw)
        made = {"inputSchema": _described(tool.input_schema), "outputSchema": _described(tool.output_schema)}
        if tool.output_schema and not _is_object(_SCHEMA.decode(tool.output_schema).type):
            made["outputSchema"] = Raw()
        if made["inputSchema"] is tool.input_schema and made["outputSchema"] is tool.output_schema:
            return raw
        members = {**_MEMBERS.decode(raw), **made}
        return _ENCODE({name: value for name, value in members.items() if value or name not in made})
    except MALFORMED:
        return _without_output(raw)


def _is_object(type: Raw) -> bool:
    return bytes(type) == b'"object"' or (0 < len(bytes(type)) < 100 and msgspec.json.decode(type) == "object")


def _described(schema: Raw) -> Raw:
    """Return a schema whose properties are objects."""
    text = bytes(schema)
    if b"true" not in text and b"false" not in text:
        return schema
    properties = _SCHEMA.decode(schema).properties
    if bytes(properties)[:1] != b"{" or (b"true" not in bytes(properties) and b"false" not in bytes(properties)):
        return schema
    members = _MEMBERS.decode(properties)
    if not any(bytes(value) in _BOOLEANS for value in members.values()):
        return schema
    described = {name: _BOOLEANS.get(bytes(value), value) for name, value in members.items()}
    return Raw(_ENCODE({**_MEMBERS.decode(schema), "properties": described}))


_BOOLEANS: Final = {b"true": Raw(b"{}"), b"false": Raw(b'{"not":{}}')}
"""Schemas that are booleans, as objects."""


def _without_output(raw: bytes) -> bytes:
    """Return a tool whose schemas cannot be read without its `outputSchema`, which may be null, a boolean or a list."""
    try:
        members = _MEMBERS.decode(raw)
        if bytes(members.get("outputSchema", b"{}"))[:1] == b"{":
            return raw
        del members["outputSchema"]
        return tool_for_legacy(_ENCODE(members))
    except MALFORMED:
        return raw


# --- results


def result_for(method: str, result: bytes, revision: str) -> bytes:
    """Return the result of a request as a host of this revision may read it."""
    is_short = len(result) <= MAX_RESULT_BYTES
    try:
        if len(result) <= SHORT_BYTES and b"null" in result and _NULL.search(result) and method in _BLOCKS_OF:
            result = _without_nulls(result, _BLOCKS_OF[method])
        match method:
            case "tools/call":
                if revision < MODERN and _may_be_no_object(result):
                    result = _structured(result)
                if revision < LINKS_SINCE and is_short and _has_new_blocks(result, revision):
                    result = _with(result, "content", _blocks(members(result)["content"], revision))
            case "prompts/get" if revision < LINKS_SINCE and is_short and _has_new_blocks(result, revision):
                messages = [members(message) for message in _all(members(result)["messages"])]
                result = _with(result, "messages", _ENCODE([_message(message, revision) for message in messages]))
            case "completion/complete" if len(result) > MAX_COMPLETIONS:
                result = _completions(result)
    except (*MALFORMED, KeyError):
        pass  # it is not what the method promises in any revision, and passes as it is
    return result


_OPTIONAL: Final = frozenset(("_meta", "annotations", "description", "icons", "isError", "mimeType", "size", "title"))
"""What a result and a content block may leave out, in every revision, and what none of them lets be null."""
_NULL: Final = re.compile(
    rb'"(?:content|messages|contents|%b)"[ \t\r\n]*+:[ \t\r\n]*+null' % "|".join(_OPTIONAL).encode()
)
_BLOCKS_OF: Final = {"tools/call": "content", "prompts/get": "messages", "resources/read": "contents"}


def _without_nulls(result: bytes, listed: str) -> bytes:
    """Leave out what is null and may be absent, as some serializers write it; null for a list is an empty one.

    Hosts refuse the whole result for it. Structured content is anybody's, and passes as it is.
    """
    given = members(result)
    kept: dict[str, Raw] = {}
    for name, value in given.items():
        if name == listed:
            kept[name] = Raw(b"[]") if bytes(value) == b"null" else _each_without_nulls(value)
        elif name not in _OPTIONAL or bytes(value) != b"null":
            kept[name] = value
    return result if kept == given else _ENCODE(kept)


def _each_without_nulls(listed: Raw) -> Raw:
    if _NULL.search(bytes(listed)) is None:
        return listed
    return Raw(_ENCODE([_block_without_nulls(one) for one in _all(listed)]))


def _block_without_nulls(raw: Raw) -> Raw:
    """Return a content block, or a message with one, or what is embedded in one."""
    if bytes(raw)[:1] != b"{" or _NULL.search(bytes(raw)) is None:
        return raw
    kept = {
        name: _block_without_nulls(value) if name in ("content", "resource") else value
        for name, value in members(raw).items()
        if name not in _OPTIONAL or bytes(value) != b"null"
    }
    return Raw(_ENCODE(kept))


class _Structured(msgspec.Struct, rename="camel"):
    content: Raw = Raw(b"[]")
    structured_content: Raw = Raw()
    is_error: Raw = Raw(b"false")
    meta: Raw = msgspec.field(name="_meta", default=Raw(b"{}"))


_STRUCTURED: Final = msgspec.json.Decoder(_Structured)
_KEY: Final = b'"structuredContent"'
_RARE: Final = b"C"
"""Of the name, the letter that is seldom in a text."""
SHORT_BYTES: Final = 16 * 1024
"""In a shorter result the whole name is searched at once."""
_OBJECT: Final = re.compile(rb'"structuredContent"[ \t\r\n]*+:[ \t\r\n]*+\{')
MAX_KEYS: Final = 32
"""Members of that name that are looked at before the result is parsed."""


def _may_be_no_object(result: bytes) -> bool:
    """Whether something that is called structured content may be no object: a search that parses nothing."""
    if len(result) <= SHORT_BYTES and _KEY not in result:
        return False
    found = enumerate(found_by(_RARE, _KEY, result))
    return any(seen == MAX_KEYS or not _OBJECT.match(result, at) for seen, at in found)


def _structured(result: bytes) -> bytes:
    """Leave out structured content that is no object; where the text is not there as well, it becomes a text."""
    found = _STRUCTURED.decode(result)
    structured, content = bytes(found.structured_content), found.content
    if not structured or structured[:1] == b"{":
        return result
    if structured != b"null" and is_empty(content):
        content = Raw(b"[%b]" % _text(structured.decode() if len(structured) <= MAX_RESULT_BYTES else LEFT_OUT))
    if len(result) > MAX_RESULT_BYTES:
        return _ENCODE({"content": content, "isError": found.is_error, "_meta": found.meta})
    given = members(result)
    del given["structuredContent"]
    return _ENCODE({**given, "content": content})


def _has_new_blocks(result: bytes, revision: str) -> bool:
    return b'"resource_link"' in result or (revision < AUDIO_SINCE and b'"audio"' in result)


def _blocks(content: Raw, revision: str) -> bytes:
    return _ENCODE([Raw(_block(block, revision)) for block in _all(content)])


def _message(message: dict[str, Raw], revision: str) -> dict[str, Raw]:
    return {**message, "content": Raw(_block(message["content"], revision))}


class _Block(msgspec.Struct, rename="camel"):
    type: str = ""
    uri: str = ""
    name: str = ""
    title: str | None = None
    description: str | None = None
    mime_type: str = "application/octet-stream"
    data: str = ""


_BLOCK: Final = msgspec.json.Decoder(_Block)


def _all(array: Raw) -> list[Raw]:
    """Return the elements of an array.

    Raises:
        ValueError: there are too many.
    """
    found = elements(array, MAX_BLOCKS + 1)
    if len(found) > MAX_BLOCKS:
        raise ValueError("an array has too many elements")
    return found


def _block(raw: Raw, revision: str) -> bytes:
    """Return a content block of a kind that the revision has: for a link a text, for a sound an embedded resource."""
    if not _has_new_blocks(bytes(raw), revision):
        return bytes(raw)
    block = _BLOCK.decode(raw)
    if block.type == "resource_link":
        told = f"{block.title or block.name}: {block.uri}" + (f" ({block.description})" if block.description else "")
        return _text(told)
    if block.type == "audio" and revision < AUDIO_SINCE:
        sound = {"uri": f"data:{block.mime_type}", "mimeType": block.mime_type, "blob": block.data}
        return _ENCODE({"type": "resource", "resource": sound})
    return bytes(raw)


def _text(text: str) -> bytes:
    return b'{"type":"text","text":%b}' % json_string(text)


def _completions(result: bytes) -> bytes:
    """Cut what is more than a host may be told, and say that there is more."""
    completion = members(members(result)["completion"])
    values = elements(completion["values"], MAX_BLOCKS)
    if len(values) <= MAX_COMPLETIONS:
        return result
    more: Mapping[str, Any] = {"total": len(values), **completion}
    return _with(result, "completion", _ENCODE({**more, "values": values[:MAX_COMPLETIONS], "hasMore": True}))


def _with(result: bytes, member: str, value: bytes) -> bytes:
    return _ENCODE({**members(result), member: Raw(value)})


# --- questions


def question_for(method: str, params: bytes, revision: str) -> bytes:
    """Return the params of a server's question as a host up to 2025-11-25 may read them."""
    if method != SAMPLE or not (revision < SEVERAL_SINCE or b'"structuredContent"' in params or b'"tools"' in params):
        return params
    try:
        given = members(params)
        made = {"messages": _each(given["messages"], lambda message: _said(message, revision))}
        if "tools" in given:
            made["tools"] = _each(given["tools"], lambda tool: [Raw(tool_for_legacy(bytes(tool)))])
        if all(bytes(value) == bytes(given[name]) for name, value in made.items()):
            return params
        return _ENCODE({**given, **made})
    except (*MALFORMED, KeyError):
        return params  # it is no such question in any revision


def _each(listed: Raw, change: Callable[[Raw], list[Raw]]) -> Raw:
    """Return a list with what its items become; the list itself, where each stays what it is."""
    items = _all(listed)
    changed = [change(item) for item in items]
    if all(len(made) == 1 and bytes(made[0]) == bytes(item) for item, made in zip(items, changed, strict=True)):
        return listed
    return Raw(_ENCODE([one for made in changed for one in made]))


def _said(message: Raw, revision: str) -> list[Raw]:
    """Return a message of a conversation: one for each block, where a host takes one block a message."""
    given = members(message)
    content = given["content"]
    if bytes(content)[:1] != b"[":
        made = [_sampled(content, revision)]
    elif revision < SEVERAL_SINCE:
        made = [_sampled(block, revision) for block in _all(content)]
    else:
        made = [_each(content, lambda block: [_sampled(block, revision)])]
    if [bytes(one) for one in made] == [bytes(content)]:
        return [message]
    return [Raw(_ENCODE({**given, "content": one})) for one in made]


def _sampled(raw: Raw, revision: str) -> Raw:
    """Return a block of a conversation, which has no embedded resources: of a sound only its kind can be told."""
    if b'"structuredContent"' in bytes(raw):
        return Raw(_structured(bytes(raw)))
    if revision < AUDIO_SINCE and b'"audio"' in bytes(raw):
        block = _BLOCK.decode(raw)
        if block.type == "audio":
            return Raw(_text(f"(a sound, {block.mime_type}, which cannot be passed on)"))
    return raw
