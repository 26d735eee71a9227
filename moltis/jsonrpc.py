"""JSON-RPC 2.0 as bytes: messages made of what is JSON already, which is never encoded anew. Pure.

Ids, params and results stay the bytes they came as, so that a reply carries a result exactly as it was written but for
line breaks, which would end the message. How a message is read differs by who sends it, and is said there:
`session.envelope` of servers, `gateway.messages` of hosts, `control.requests` of the control socket.
"""

from __future__ import annotations

from typing import Final

import msgspec

from moltis.printable import unbroken

MALFORMED: Final = (msgspec.MsgspecError, RecursionError, ValueError)
"""What reading JSON raises that is none, or not as it should be."""


def json_string(text: str) -> bytes:
    """Return `text` as a JSON string."""
    return msgspec.json.encode(text)


def request(id: int, method: str, params: bytes = b"") -> bytes:
    """Build a request. `params`: a JSON object, or nothing."""
    more = b',"params":%b' % unbroken(params) if params else b""
    return b'{"jsonrpc":"2.0","id":%d,"method":%b%b}' % (id, json_string(method), more)


def notification(method: str, params: bytes = b"") -> bytes:
    """Build a notification. `params`: a JSON object, or nothing."""
    if not params:
        return b'{"jsonrpc":"2.0","method":%b}' % json_string(method)
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (json_string(method), unbroken(params))


def result(id: bytes, result: bytes) -> bytes:
    """Answer a request. `id`: the JSON that it had. `result`: JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, unbroken(result))


def error(id: bytes, code: int, message: str, data: bytes = b"") -> bytes:
    """Refuse a request. `id`: the JSON that it had. `data`: JSON, or nothing."""
    more = b',"data":%b' % unbroken(data) if data else b""
    return b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":%b%b}}' % (id, code, json_string(message), more)


def refusal(id: bytes, error: bytes) -> bytes:
    """Refuse a request with a JSON-RPC error object."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, unbroken(error))


def our_id(given: object) -> int | None:
    """Return the id as the int that was sent: some servers echo 7 as "7" or 7.0."""
    if type(given) is int:
        return given
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 20:
        return int(given)
    if isinstance(given, float) and given.is_integer():
        return int(given)
    return None
