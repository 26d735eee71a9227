"""What a line of the control socket asks, and how it is refused (JSON-RPC 2.0).

It refuses to know methods, connections and time. What is passed through is never re-encoded. Ids, params and results
stay the bytes they came as, so a reply carries a server's result exactly as the server wrote it.

A line is at most 64 levels deep and a batch at most 100 members. NaN, lone surrogates, bad UTF-8 and UTF-16 are parse
errors (RFC 8259). A name that an object has twice counts as its last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from moltis import jsonrpc
from moltis.errors import RpcCode
from moltis.nesting import MAX_DEPTH, is_deeper_than
from moltis.steps import LONG_BYTES

MAX_BATCH: Final = 100
"""Members of one batch: more than a page of anything, and few enough to be answered as one line."""

MAX_BRACKETS: Final = 150_000
"""That open in a line, in strings or not: to find how deep more of them are nested takes long."""

NULL_ID: Final = b"null"


class Request(msgspec.Struct, frozen=True, gc=False):
    """One call. `id` is its bytes as sent, None for a notification; `params` is an object or array, or None."""

    id: bytes | None
    method: str
    params: msgspec.Raw | None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """What is no request, with the reply it gets."""

    reply: bytes


class Batch(msgspec.Struct, frozen=True):
    """Requests sent together, whose replies go back together; never empty."""

    members: tuple[Request | Refused, ...]


Message = Request | Refused | Batch


class _Envelope(msgspec.Struct, gc=False):
    method: str
    jsonrpc: str
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode

_BatchArray: Any = msgspec.defstruct(
    "_BatchArray",
    [(f"member_{i}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for i in range(MAX_BATCH)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""An array that stops decoding at its 101st member: a list of a million members would be built before it is refused."""

_decode_batch: Final = msgspec.json.Decoder(_BatchArray).decode


def parse(line: bytes) -> Message:
    """Return what one line says. Never raises: a line that says nothing sensible gives the error reply it deserves."""
    problem = _unreadable(line)
    if problem is not None:
        return Refused(parse_error(problem))
    return _parse_batch(line) if line.lstrip()[:1] == b"[" else _parse_one(line)


def error(request_id: bytes | None, code: int, message: str, data: Any = None) -> bytes:
    """Return the reply with an error; `data` is left out when it is None, and an id of None is answered as null."""
    body: dict[str, Any] = {"code": int(code), "message": message}
    if data is not None:
        body["data"] = data
    try:
        encoded = msgspec.json.encode(body, enc_hook=str)
    except UnicodeEncodeError:  # somebody's bytes got into the words; the answer must not fail for that
        words = message.encode("utf-8", "backslashreplace").decode()
        encoded = msgspec.json.encode({"code": int(code), "message": words})
    return jsonrpc.refusal(request_id or NULL_ID, encoded)


def batch(replies: Iterable[bytes]) -> bytes | None:
    """Return the reply to a batch, or None when all its members were notifications (section 6)."""
    joined = b",".join(replies)
    return b"[%b]" % joined if joined else None


def parse_error(detail: str) -> bytes:
    """Return the reply to a line that is not JSON (section 5.1); its id cannot be known."""
    data = {"kind": "parse_error", "server": None, "hint": "send one JSON-RPC 2.0 message a line, in UTF-8"}
    return error(None, RpcCode.PARSE_ERROR, f"Parse error: {detail}", data)


def invalid_request(detail: str, request_id: bytes | None = None) -> bytes:
    """Return the reply to JSON that is not a request (section 5.1)."""
    hint = '{"jsonrpc":"2.0","id":1,"method":"rpc.discover"} is a request'
    data = {"kind": "invalid_request", "server": None, "hint": hint}
    return error(request_id, RpcCode.INVALID_REQUEST, f"Invalid Request: {detail}", data)


def _unreadable(line: bytes) -> str | None:
    """Say why a line cannot be read, for what decoding with Raw members does not look at: UTF-8 and depth."""
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as failure:
            return f"not UTF-8 (byte {failure.start})"
    if len(line) > LONG_BYTES and line.count(b"[") + line.count(b"{") > MAX_BRACKETS:
        return f"more than {MAX_BRACKETS} opening brackets"
    if is_deeper_than(line, MAX_DEPTH):
        return f"nested deeper than {MAX_DEPTH} levels"
    return None


def _parse_one(text: bytes | msgspec.Raw) -> Request | Refused:
    try:
        envelope = _decode_envelope(text)
    except msgspec.ValidationError:
        return _explain(text)
    except (msgspec.DecodeError, RecursionError) as failure:
        return Refused(parse_error(str(failure)))
    if envelope.jsonrpc != "2.0":
        return _explain(text)
    request_id = params = None
    if envelope.id is not msgspec.UNSET:
        request_id = bytes(envelope.id)
        if not _is_id(request_id):
            return _explain(text)
    if envelope.params is not msgspec.UNSET:
        params = envelope.params
        if bytes(params)[:1] not in (b"{", b"["):
            return _explain(text)
    return Request(request_id, envelope.method, params)


def _parse_batch(line: bytes) -> Refused | Batch:
    try:
        members = msgspec.structs.astuple(_decode_batch(line))
    except msgspec.ValidationError:
        return Refused(invalid_request(f"a batch has at most {MAX_BATCH} members"))
    except (msgspec.DecodeError, RecursionError) as failure:
        return Refused(parse_error(str(failure)))
    requests = tuple(_parse_one(m) for m in members if m is not msgspec.UNSET)
    return Batch(requests) if requests else Refused(invalid_request("an empty batch"))


def _is_id(raw: bytes) -> bool:
    """Tell whether JSON is a string, a number or null (section 4)."""
    return raw[:1] in b'"-0123456789' or raw == NULL_ID


def _explain(text: bytes | msgspec.Raw) -> Refused:
    """Say what is wrong with JSON that is no request, answering to its id when it has one that can be answered to."""
    try:
        members = _decode_members(text)
    except msgspec.ValidationError:
        return Refused(invalid_request("a request is an object"))
    except (msgspec.DecodeError, RecursionError) as failure:
        return Refused(parse_error(str(failure)))
    request_id = bytes(members["id"]) if "id" in members else None
    if request_id is not None and not _is_id(request_id):
        return Refused(invalid_request("id must be a string, a number or null"))
    return Refused(invalid_request(_what_is_wrong(members), request_id))


def _what_is_wrong(members: dict[str, msgspec.Raw]) -> str:
    for name in ("jsonrpc", "method"):
        if name not in members:
            return f"no member {name!r}"
        try:
            text = _decode_text(members[name])
        except msgspec.ValidationError:
            return f"{name} must be a string"
        if name == "jsonrpc" and text != "2.0":
            return 'jsonrpc must be "2.0"'
    return "params must be an object or an array"
