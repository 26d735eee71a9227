"""What a request of HTTP says around the message in it.

What may be there once is there once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from moltis.gateway.api import Principal
from moltis.gateway.doors import Headers
from moltis.gateway.http.modern import VERSION
from moltis.gateway.http.refusals import Refusal
from moltis.gateway.messages import Ask
from moltis.httpd.asgi import CONNECTION, Connection, Header, Send
from moltis.httpd.router import Route
from moltis.jsonrpc import json_string

NONE: Final[frozenset[bytes]] = frozenset()
BOM: Final = b"\xef\xbb\xbf"
_COMPRESSED: Final = frozenset({b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"compress", b"x-compress"})
ONCE: Final = frozenset({b"host", b"origin", b"authorization", b"content-type", b"mcp-session-id"})

_TRACE: Final = ((b"traceparent", "traceparent"), (b"tracestate", "tracestate"))
MAX_TRACE_BYTES: Final = 1024


class Accepts(NamedTuple):
    """What a client takes. `plain`: JSON. `events`: a stream, asked for by name. `any`: whatever there is."""

    plain: bool
    events: bool
    any: bool

    @classmethod
    def of(cls, accept: bytes | None) -> Accepts:
        """Read an `Accept` header (RFC 9110 12.5.1); without one, anything is welcome."""
        if accept is None:
            return cls(True, False, True)
        ranges = {text for text in map(_media_range, accept.lower().split(b",")) if text}
        return cls(
            not ranges.isdisjoint((b"application/json", b"application/*", b"*/*")),
            not ranges.isdisjoint((b"text/event-stream", b"text/*")),
            b"*/*" in ranges,
        )


class Inbound:
    """What is known of one request before its body is read."""

    __slots__ = (
        "accepts",
        "connection",
        "cors",
        "entered_as",
        "headers",
        "method",
        "principal",
        "repeated",
        "route",
        "scope",
        "send",
        "version",
        "view",
    )

    accepts: Accepts
    principal: Principal
    entered_as: str
    """The principal under whom it was counted, who may be another one after a reload."""
    route: Route[Inbound]
    view: str
    """The path of the view that it is for, if there is one."""

    def __init__(self, scope: dict[str, Any], send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        raw = scope["headers"]
        # What stands around a value is not part of it (RFC 9110 5.5); the parser leaves what is behind.
        self.headers: dict[bytes, bytes] = {name: value.strip(b" \t") for name, value in raw}
        self.repeated = NONE if len(self.headers) == len(raw) else repeated(raw)
        self.connection: Connection = scope[CONNECTION]
        self.cors: Headers = ()
        self.version = self.headers.get(VERSION) or None  # an empty one says nothing
        self.send = send


class Refused(Exception):
    """A request is not served. `id`: JSON, of the message in it as far as it was read."""

    def __init__(self, refusal: Refusal, id: bytes = b"null") -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.id = id


def _media_range(text: bytes) -> bytes | None:
    name, *parameters = (part.strip() for part in text.split(b";"))
    return None if any(_is_zero(parameter) for parameter in parameters) else name


def _is_zero(parameter: bytes) -> bool:
    key, _, value = parameter.partition(b"=")
    return key.strip() == b"q" and value.strip().rstrip(b"0") in (b"", b"0.")


def is_json(content_type: bytes | None) -> bool:
    """Whether a body is said to be JSON; what says nothing of itself is not taken for it (RFC 9110 8.3)."""
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"application/json"


def is_compressed(coding: bytes) -> bool:
    """Whether a body is not what it says, but has to be unpacked; a coding that is none is no matter."""
    return any(part.strip().lower() in _COMPRESSED for part in coding.split(b","))


def repeated(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the names that are there more than once."""
    seen: set[bytes] = set()
    twice: set[bytes] = set()
    for name, _ in headers:
        (twice if name in seen else seen).add(name)
    return frozenset(twice)


def add_trace(ask: Ask, headers: dict[bytes, bytes]) -> None:
    """Have a request carry the trace context of its HTTP request on (W3C Trace Context; MCP, SEP-414)."""
    if b"traceparent" not in headers or "traceparent" in ask.meta:
        return
    for header, member in _TRACE:
        value = headers.get(header)
        if value is not None and len(value) <= MAX_TRACE_BYTES and value.isascii():
            ask.meta[member] = msgspec.Raw(json_string(value.decode("ascii")))
