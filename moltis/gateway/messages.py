"""What a host sends, by its envelope: parsed once, in one pass, and nothing below `params` and `_meta` is looked into.

`parse` never raises. Members that are named twice are taken once, the last one, and are passed on once: nobody behind
us can read something else than we did. Half a surrogate pair, which is no Unicode, becomes U+FFFD, as it does in what
servers say.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from moltis.errors import RpcCode
from moltis.jsonrpc import MALFORMED, error, notification, refusal, request, result
from moltis.nesting import MAX_DEPTH, MAX_PARTS, counting, is_deeper_than, measuring, outer_id
from moltis.session.envelope import mended_error
from moltis.session.parts import extent
from moltis.steps import LONG_BYTES, Steps, finished
from moltis.unicode import mend, mending, reading

__all__ = [
    "CAPABILITIES",
    "CLIENT_INFO",
    "LOG_LEVEL",
    "PROTOCOL_VERSION",
    "SERVER_INFO",
    "SUBSCRIPTION_ID",
    "Answer",
    "Ask",
    "Incoming",
    "Tell",
    "Unreadable",
    "error",
    "notification",
    "parse",
    "reading_of",
    "relayed_error",
    "request",
    "result",
    "text_of",
    "with_members",
]

PROTOCOL_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
"""Members of `_meta` (MCP 2026-07-28)."""

MAX_ID_BYTES: Final = 1024
MAX_META_BYTES: Final = 1024 * 1024
"""Of `params._meta` of one request; a few hundred are used."""
MAX_TEXT_BYTES: Final = 64 * 1024
"""Of a name, a URI, a cursor: whoever is told that there is no such thing is told which."""
MAX_OTHER_BYTES: Final = 512 * 1024
"""Of `params` beside the members that MCP has, where there are very many: to make an object of each takes long."""

NOTHING: Final = Raw()


class Ask(msgspec.Struct, gc=False):
    """A request.

    id: JSON, a string or an integer, to be echoed as it is.
    params: its members but `_meta`. meta: the members of `_meta`.
    """

    id: bytes
    method: str
    params: dict[str, Raw]
    meta: dict[str, Raw]

    @property
    def is_modern(self) -> bool:
        """Whether it speaks for itself (MCP 2026-07-28), rather than in a session that began with `initialize`."""
        return PROTOCOL_VERSION in self.meta


class Tell(msgspec.Struct, gc=False):
    """A notification; `params` as in `Ask`, with `_meta` among them."""

    method: str
    params: dict[str, Raw]


class Answer(msgspec.Struct, gc=False):
    """An answer to a request of ours: exactly one of `result` and `error` is not None. `id`: JSON."""

    id: bytes
    result: bytes | None = None
    error: bytes | None = None


class Unreadable(msgspec.Struct, gc=False):
    """None of these. `code`: of JSON-RPC 2.0 section 5.1; `id`: JSON, of the request if it can be told."""

    code: int
    reason: str
    id: bytes = b"null"


Incoming = Ask | Tell | Answer | Unreadable


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: str = ""
    id: Raw = NOTHING
    method: str | None = None
    params: Raw = NOTHING
    result: Raw = NOTHING
    error: Raw = NOTHING


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_TEXT = msgspec.json.Decoder(str)
_ANYTHING = msgspec.json.Decoder(Raw)


def parse(message: bytes) -> Incoming:
    """Read one message of a host. Never raises."""
    if len(message) > LONG_BYTES:
        return finished(reading_of(message))
    try:
        envelope = _ENVELOPE.decode(message)
        if not message.isascii():
            str(message, "utf-8")  # strings that are skipped over are not checked to be UTF-8
    except MALFORMED:
        return _second_look(message)
    if is_deeper_than(message, MAX_DEPTH):
        return _too_deep(_shown_id(bytes(envelope.id)))
    return _read(envelope)


def reading_of(message: bytes) -> Steps[Incoming]:
    """Return what `parse` returns in steps, for a message that is long. Never raises."""
    if not (yield from reading(message)):
        return Unreadable(RpcCode.PARSE_ERROR, "not JSON")  # not mended: a host is to hear of its fault
    if (yield from counting(message)) > MAX_PARTS:
        why = f"a message has at most {MAX_PARTS} values, a list or an object counted as three"
        return Unreadable(RpcCode.INVALID_REQUEST, why, _shown_id(outer_id(message) or b""))
    if (yield from measuring(message, MAX_DEPTH)):
        return _too_deep(_shown_id(outer_id(message) or b""))
    yield
    if message[:64].lstrip()[:1] not in (b"{", b""):
        return _unreadable(message)
    try:
        envelope = _ENVELOPE.decode(message)
    except MALFORMED:
        mended = yield from mending(message)
        yield
        try:
            envelope = _ENVELOPE.decode(mended or b"")
        except MALFORMED:
            yield
            return _unreadable(message)
    yield
    if envelope.method is not None and len(envelope.params) > LONG_BYTES:
        problem = yield from _measured(envelope)
        if problem is not None:
            return problem
        yield
    return _read(envelope)


def _measured(envelope: _Envelope) -> Steps[Unreadable | None]:
    """Refuse what would take long to read: each member of `params`, and of its `_meta`, becomes an object."""
    if memoryview(envelope.params)[0] != ord("{"):
        return _no_object(bytes(envelope.id))
    try:
        size = yield from extent(envelope.params)
    except MALFORMED:
        return _no_object(bytes(envelope.id))
    if size.meta > MAX_META_BYTES:
        why = f"params._meta has at most {MAX_META_BYTES} bytes"
    elif size.other > MAX_OTHER_BYTES and size.is_wide:
        why = "params has too much in it that MCP does not know"
    else:
        return None
    id = bytes(envelope.id)
    return Unreadable(RpcCode.INVALID_PARAMS if _is_id(id) else RpcCode.INVALID_REQUEST, why, _shown_id(id))


def _too_deep(id: bytes) -> Unreadable:
    return Unreadable(RpcCode.INVALID_REQUEST, f"nested deeper than {MAX_DEPTH} levels", id)


def _second_look(message: bytes) -> Incoming:
    try:
        message.decode()  # bytes that are not UTF-8 are not mended: a host is to hear of its fault
        envelope = _ENVELOPE.decode(mend(message) or b"")
    except MALFORMED:
        return _unreadable(message)
    if is_deeper_than(message, MAX_DEPTH):
        return _too_deep(_shown_id(bytes(envelope.id)))
    return _read(envelope)


def _read(envelope: _Envelope) -> Incoming:
    id = bytes(envelope.id)
    if envelope.jsonrpc != "2.0":
        return Unreadable(RpcCode.INVALID_REQUEST, 'not a JSON-RPC 2.0 message: "jsonrpc" must be "2.0"', _shown_id(id))
    if envelope.method is None:
        return _answer(envelope, id)
    try:
        params = _MEMBERS.decode(envelope.params) if envelope.params else {}
    except MALFORMED:
        if bytes(envelope.params) != b"null":  # which some hosts write for none
            return _no_object(id)
        params = {}
    if not id:
        return Tell(envelope.method, params)
    if not _is_id(id):
        return Unreadable(RpcCode.INVALID_REQUEST, "the id of a request must be a string or an integer")
    meta = params.pop("_meta", None)
    if meta is None:
        return Ask(id, envelope.method, params, {})
    try:
        return Ask(id, envelope.method, params, _MEMBERS.decode(meta))
    except MALFORMED:
        if bytes(meta) != b"null":
            return Unreadable(RpcCode.INVALID_PARAMS, "params._meta must be an object", id)
        return Ask(id, envelope.method, params, {})


def _no_object(id: bytes) -> Unreadable:
    if not id:
        return Unreadable(RpcCode.INVALID_REQUEST, "params must be an object")
    return Unreadable(RpcCode.INVALID_PARAMS, "params must be an object", _shown_id(id))


def _answer(envelope: _Envelope, id: bytes) -> Incoming:
    error, result = bytes(envelope.error), bytes(envelope.result)
    if _is_id(id) and error and error != b"null":
        return Answer(id, None, error)
    if _is_id(id) and result:
        return Answer(id, result, None)
    return Unreadable(RpcCode.INVALID_REQUEST, "neither a request, nor a notification, nor an answer", _shown_id(id))


def _is_id(id: bytes) -> bool:
    return (id[:1] == b'"' or id.lstrip(b"-").isdigit()) and len(id) <= MAX_ID_BYTES


def _shown_id(id: bytes) -> bytes:
    return id if _is_id(id) else b"null"


def _unreadable(message: bytes) -> Unreadable:
    try:
        found = bytes(_ANYTHING.decode(message))
        message.decode()
    except RecursionError:
        return _too_deep(_shown_id(outer_id(message) or b""))
    except MALFORMED:
        return Unreadable(RpcCode.PARSE_ERROR, "not JSON")
    if found.startswith(b"["):
        return Unreadable(RpcCode.INVALID_REQUEST, "batches are not supported: send one message at a time")
    return Unreadable(RpcCode.INVALID_REQUEST, "not a JSON-RPC 2.0 message")


def text_of(members: dict[str, Raw], name: str) -> str | None:
    """Return a member that is a string; None if there is none, it is something else, or too long for any name."""
    raw = members.get(name)
    if raw is None or len(raw) > MAX_TEXT_BYTES:
        return None
    try:
        return _TEXT.decode(raw)
    except MALFORMED:
        return None


# --- what is sent to a host; each of these gives one line


def relayed_error(id: bytes, error: bytes) -> bytes:
    """Refuse a request with the error that a server sent, mended if it is none: hosts wait on for what they drop."""
    return refusal(id, mended_error(error))


def with_members(result: bytes, added: Mapping[bytes, bytes]) -> bytes:
    """Return a JSON object with more members in front, but for those that it has."""
    head = result[:200]
    if any(b'"%b"' % name in head for name in added):
        there = _names(result)
        added = {name: value for name, value in added.items() if name.decode() not in there}
    if not added:
        return result
    more = b",".join([b'"%b":%b' % member for member in added.items()])
    rest = result.lstrip(b" \t\r\n")[1:].lstrip(b" \t\r\n")
    return b"{%b%b%b" % (more, b"" if rest[:1] == b"}" else b",", rest)


def _names(object: bytes) -> Container[str]:
    """Return the names of the members of an object; of one that is long, of those that are added to results."""
    if len(object) <= LONG_BYTES:
        return _MEMBERS.decode(object)
    found = msgspec.structs.asdict(_ADDED.decode(object))
    return {name for name, value in found.items() if value}


class _Added(msgspec.Struct):
    resultType: Raw = NOTHING  # noqa: N815 - the wire's spelling
    cacheScope: Raw = NOTHING  # noqa: N815
    ttlMs: Raw = NOTHING  # noqa: N815


_ADDED = msgspec.json.Decoder(_Added)
