"""Who may come in at all: by `Host` and `Origin` (MCP, Transports, Security Warning), and by access token (RFC 6750).

Pure. A web page can make its visitor's browser send requests here, and can point a name of its own at this machine
(DNS rebinding). The one rule: a `Host` that nobody configured, or an `Origin` that nobody allowed, is answered nothing
that a page could use.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["ALLOW_HEADERS", "ALLOW_METHODS", "BadRequest", "Doors", "Forbidden", "Headers", "bearer"]

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case."""

ALLOW_METHODS: Final = b"GET, HEAD, POST, DELETE, OPTIONS"
ALLOW_HEADERS: Final = (
    b"authorization, content-type, mcp-protocol-version, mcp-session-id, mcp-method, mcp-name, last-event-id"
)
EXPOSE_HEADERS: Final = b"mcp-session-id, mcp-protocol-version, www-authenticate, retry-after"
PREFLIGHT_SECS: Final = 600
"""How long a browser may remember a preflight's answer."""

MAX_REMEMBERED: Final = 64
MAX_HOST_BYTES: Final = 300
MAX_TOKEN_CHARS: Final = 4096

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]+) *")
_EXTRA = re.compile(rb"mcp-param-[!#$%&'*+\-.^_`|~0-9a-z]{1,128}|traceparent|tracestate")


class BadRequest(Exception):
    """It is not HTTP as it should be. `reason` is ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Forbidden(BadRequest):
    """It comes from somewhere it may not come from."""


class Doors:
    """Decides about `Host` and `Origin`.

    allowed_origins: as `scheme://host[:port]`; `*` allows all.
    listen_host: where the endpoint listens. At a wildcard address (`0.0.0.0`, `::`) any address is a good `Host`: only
        names can be rebound.
    """

    def __init__(self, allowed_origins: Iterable[str] = (), listen_host: str = "127.0.0.1") -> None:
        self._origins = frozenset(_origin(text) for text in allowed_origins)
        self._any_origin = b"*" in self._origins
        listen = listen_host.strip("[]").lower()
        self._any_address = listen in ("", "*") or _is_wildcard(listen)
        # A page of an allowed origin may use everything here, so its own name may be pointed here too (a tunnel).
        hosts = {_host_of(origin.partition(b"://")[2]) for origin in self._origins}
        self._hosts = {listen.encode("utf-8", "replace"), b"localhost", *(h for h in hosts if h)}
        self._good_hosts: set[bytes] = set()

    def admit(self, host: bytes | None, origin: bytes | None) -> Headers:
        """Let a request in; give what its answer must say about cross-origin use, nothing if it is none.

        Raises:
            Forbidden: not from there.
            BadRequest: there is no `Host` (RFC 9112 3.2).
        """
        if host not in self._good_hosts:
            self._admit_host(host)
        if origin is None:
            return ()
        assert host is not None
        return self._admit_origin(host, origin)

    def preflight(self, origin_headers: Headers, requested: bytes | None) -> Headers:
        """Give the headers of the answer to OPTIONS. `requested`: `Access-Control-Request-Headers` (Fetch, 3.2.3)."""
        if not origin_headers:
            return ((b"allow", ALLOW_METHODS),)
        allowed = ALLOW_HEADERS
        if requested and len(requested) <= 4096:
            extra = [name.strip().lower() for name in requested.split(b",")]
            allowed = b", ".join([allowed, *(name for name in extra if _EXTRA.fullmatch(name))])
        return (
            *origin_headers,
            (b"access-control-allow-methods", ALLOW_METHODS),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECS),
        )

    def _admit_host(self, host: bytes | None) -> None:
        if not host or len(host) > MAX_HOST_BYTES:
            raise BadRequest("a request needs one Host header")
        name = _host_of(host)
        if name is None or not self._is_ours(name):
            raise Forbidden("this Host is not served here")
        if len(self._good_hosts) < MAX_REMEMBERED:
            self._good_hosts.add(host)

    def _is_ours(self, name: bytes) -> bool:
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name.decode("ascii"))
        except ValueError:
            return False
        return self._any_address or address.is_loopback

    def _admit_origin(self, host: bytes, origin: bytes) -> Headers:
        if origin.lower() in (b"http://" + host.lower(), b"https://" + host.lower()):
            return ()
        if not self._any_origin and origin.lower() not in self._origins:
            raise Forbidden("this Origin is not allowed here; see [gateway] allowed_origins")
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSE_HEADERS),
            (b"vary", b"origin"),
        )


def bearer(authorization: bytes | None) -> str | None:
    """Give the token of an `Authorization` header; None if there is none, or it is of another kind (RFC 6750 2.1)."""
    if authorization is None or len(authorization) > MAX_TOKEN_CHARS:
        return None
    if authorization[:7] == b"Bearer " and b" " not in authorization[7:] and authorization.isascii():
        return authorization[7:].decode("ascii") or None
    match = _BEARER.fullmatch(authorization)
    return match[1].decode("ascii") if match else None


def _origin(text: str) -> bytes:
    return text.strip().rstrip("/").lower().encode("utf-8", "replace")


def _host_of(authority: bytes) -> bytes | None:
    """Give the host of `host[:port]`, in lower case and without brackets; None if it is malformed."""
    match = _HOST.fullmatch(authority)
    return match[1].strip(b"[]").rstrip(b".").lower() if match else None


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
