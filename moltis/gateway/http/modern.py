"""What MCP 2026-07-28 wants of the headers of a request (Transports, Streamable HTTP, Request Headers; SEP-2243).

Pure. A request says in headers what it says in its body too, for those on the way who do not read bodies. Where the two
differ it is refused, so that nobody on the way can be shown something else than the server is.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from moltis.errors import RpcCode
from moltis.gateway.http.refusals import Refusal
from moltis.gateway.messages import CAPABILITIES, PROTOCOL_VERSION, Ask, text_of
from moltis.session.mirrored import Mirror, mirror_of

VERSION: Final = b"mcp-protocol-version"
METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"
PARAM: Final = b"mcp-param-"
ROUTING: Final = frozenset({VERSION, METHOD, NAME})

NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Which member of `params` is repeated as `Mcp-Name`."""

_ENCODED = re.compile(rb"=\?base64\?(.*)\?=", re.DOTALL)
_DECIMAL = re.compile(r"(-?[0-9]{1,400})(?:\.(0{1,400}))?")

HeaderMap = Mapping[bytes, bytes]


def refusal_of(ask: Ask, headers: HeaderMap, repeated: frozenset[bytes] = frozenset()) -> Refusal | None:
    """Say why a request is refused for its headers or its envelope; None if it is not.

    headers: names in lower case. repeated: the names that are there more than once.

    Whether the version is one that is spoken here is not asked: that a request contradicts itself is said first.
    `server/discover` has no effect, and shows nothing that somebody on the way would have to see: its body is enough.
    What it says in headers all the same must agree.
    """
    for name in sorted(repeated & ROUTING):
        return _mismatch(f"{name.decode()} header is there more than once")
    absent = [key for key in (PROTOCOL_VERSION, CAPABILITIES) if key not in ask.meta]
    if absent:
        return Refusal(400, RpcCode.INVALID_PARAMS, f"params._meta needs {' and '.join(absent)} in this revision")
    is_optional = ask.method == "server/discover"
    version, method = headers.get(VERSION), headers.get(METHOD)
    said = None if version is None else version.decode("latin-1")
    if said != text_of(ask.meta, PROTOCOL_VERSION) and not (is_optional and not said):
        return _mismatch(f"{VERSION.decode()} header and {PROTOCOL_VERSION} differ")
    if decoded(method) != ask.method and not (is_optional and method is None):
        return _mismatch(f"{METHOD.decode()} header and the request's method differ")
    member = NAMED.get(ask.method)
    if member is not None:
        about = text_of(ask.params, member)
        if about is not None and decoded(headers.get(NAME)) != about:
            return _mismatch(f"{NAME.decode()} header and params.{member} differ")
    return None


def has_arguments(ask: Ask, headers: HeaderMap) -> bool:
    """Whether `mirrored_refusal_of` has to look at a call of a tool at all."""
    return "arguments" in ask.params or any(name.startswith(PARAM) for name in headers)


def mirrored_refusal_of(
    tool: bytes, arguments: msgspec.Raw | None, headers: HeaderMap, repeated: frozenset[bytes] = frozenset()
) -> Refusal | None:
    """Say why a call is refused for its `Mcp-Param-*` headers; None if it is not.

    tool: JSON, as it was listed. A tool that marks nothing, or marks it wrongly, has no such headers.
    """
    mirror = mirror_of(tool)
    if not isinstance(mirror, Mirror):
        return None
    wanted = {name.lower(): value for name, value in mirror.headers(arguments)}
    for name in sorted(mirror.names()):
        key = name.encode()
        raw, due = headers.get(key), wanted.get(name)
        if raw is None and due is None:
            continue
        if key in repeated:
            return _mismatch(f"{name} header is there more than once")
        if raw is None:
            return _mismatch(f"{name} header is missing, and its argument is there")
        if due is None:
            return _mismatch(f"{name} header is there, and its argument is not")
        value = decoded(raw)
        if value is None or not _agree(value, decoded(due.encode("latin-1")) or ""):
            return _mismatch(f"{name} header and its argument differ")
    return None


def decoded(value: bytes | None) -> str | None:
    """Undo `encode_header_value`; None for what is not there or is encoded wrongly, which then equals nothing."""
    if value is None:
        return None
    match = _ENCODED.fullmatch(value)
    if match is None:
        return value.decode("latin-1")
    try:
        data = base64.b64decode(match[1], validate=True)
        return data.decode("utf-8") if base64.b64encode(data) == match[1] else None
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def _agree(value: str, due: str) -> bool:
    """Integers agree as numbers: `42` and `42.0` (SEP-2243)."""
    if value == due:
        return True
    left, right = _DECIMAL.fullmatch(value), _DECIMAL.fullmatch(due)
    return left is not None and right is not None and int(left[1]) == int(right[1])


def _mismatch(message: str) -> Refusal:
    return Refusal(400, RpcCode.HEADER_MISMATCH, message)
