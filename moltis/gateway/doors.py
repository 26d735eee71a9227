"""Who may come in at all: by `Host` and `Origin` (MCP, Transports, Security Warning), and by access token (RFC 6750);
and how often: the generic cell rate algorithm (ITU-T I.371), one number a principal.

Pure; the caller brings the time. A web page can make its visitor's browser send requests here, and can point a name of
its own at this machine (DNS rebinding): a `Host` that nobody configured, or an `Origin` that nobody allowed, is
answered nothing that a page could use. Whoever keeps to the rate is never refused, whatever others do.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from typing import Final

from moltis.config.web import NO_ORIGIN, host_name, page_origin

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case."""

ALLOW_METHODS: Final = b"GET, HEAD, POST, DELETE, OPTIONS"
ALLOW_HEADERS: Final = (
    b"authorization, content-type, mcp-protocol-version, mcp-session-id, mcp-method, mcp-name, last-event-id"
)
EXPOSE_HEADERS: Final = b"mcp-session-id, mcp-protocol-version, www-authenticate, retry-after"
PREFLIGHT_SECS: Final = 600
"""How long a browser may remember a preflight's answer."""

TELL_SECS: Final = 60.0
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
    """It comes from somewhere it may not come from.

    key: of `[gateway]`, that could let it in. name: what it would have to hold; empty for what no key lets in.
    """

    def __init__(self, reason: str, key: str, name: str = "") -> None:
        super().__init__(reason)
        self.key = key
        self.name = name


class Refusals:
    """Says which refusals to tell of: each name once in `TELL_SECS`, of `MAX_REMEMBERED` names in that time."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def tell(self, key: str, name: str, now: float) -> int | None:
        """Count a refusal; return how many of the same were not told of since the last that was, None not to tell."""
        at, untold = self._told.get((key, name), (None, 0))
        if at is not None and now - at < TELL_SECS:
            self._told[key, name] = at, untold + 1
            return None
        if at is None and len(self._told) >= MAX_REMEMBERED:
            self._told = {told: when for told, when in self._told.items() if now - when[0] < TELL_SECS}
            if len(self._told) >= MAX_REMEMBERED:
                return None
        self._told[key, name] = now, 0
        return untold


class Doors:
    """Decides about `Host` and `Origin`.

    allowed_origins: as `scheme://host[:port]`; `*` allows all.
    allowed_hosts: names and addresses without a port.
    listen_host: where the endpoint listens. At a wildcard address (`0.0.0.0`, `::`) any address is a good `Host`: only
        names can be rebound.
    """

    def __init__(
        self, allowed_origins: Iterable[str] = (), listen_host: str = "127.0.0.1", allowed_hosts: Iterable[str] = ()
    ) -> None:
        self._origins = frozenset(_origin(text) for text in allowed_origins)
        self._any_origin = b"*" in self._origins
        listen = listen_host.strip("[]").lower()
        self._any_address = listen in ("", "*") or _is_wildcard(listen)
        # A page of an allowed origin may use everything here, so its own name may be pointed here too (a tunnel). The
        # host of another scheme's origin is no name that anybody looks up.
        pages = (origin.partition(b"://") for origin in self._origins)
        hosts = {_host_of(host) for scheme, _, host in pages if scheme in (b"http", b"https")}
        named = {host.encode("utf-8", "replace") for host in allowed_hosts}
        self._hosts = {listen.encode("utf-8", "replace"), b"localhost", *named, *(h for h in hosts if h)}
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
        """Return the headers of the answer to OPTIONS. `requested`: `Access-Control-Request-Headers` (Fetch, 3.2.3)."""
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
            raise _unknown_host(name)
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
            raise _unknown_origin(origin)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSE_HEADERS),
            (b"vary", b"origin"),
        )


def bearer(authorization: bytes | None) -> str | None:
    """Return the token of an `Authorization` header; None if there is none, or it is of another kind (RFC 6750 2.1)."""
    if authorization is None or len(authorization) > MAX_TOKEN_CHARS:
        return None
    if authorization[:7] == b"Bearer " and b" " not in authorization[7:] and authorization.isascii():
        return authorization[7:].decode("ascii") or None
    match = _BEARER.fullmatch(authorization)
    return match[1].decode("ascii") if match else None


def _unknown_host(name: bytes | None) -> Forbidden:
    try:
        shown = host_name((name or b"").decode("ascii"))
    except ValueError:
        return Forbidden("this Host is not served here: it is no name that moltis.toml could allow", "allowed_hosts")
    told = f"this Host ({shown}) is not served here; if it is yours, write {_line('allowed_hosts', shown)}"
    return Forbidden(told, "allowed_hosts", shown)


def _unknown_origin(origin: bytes) -> Forbidden:
    if origin.lower() in (b"null", b"file://"):
        told = f"pages of the Origin {origin.lower().decode()} are never let in: it {NO_ORIGIN}"
        return Forbidden(told, "allowed_origins")
    try:
        shown = page_origin(origin.decode("ascii"))
    except ValueError:
        return Forbidden("this Origin is not allowed here, and is none that moltis.toml could allow", "allowed_origins")
    told = f"pages of {shown} are not let in here; if they are yours, write {_line('allowed_origins', shown)}"
    return Forbidden(told, "allowed_origins", shown)


def _line(key: str, name: str) -> str:
    return f'{key} = ["{name}"] in [gateway] of moltis.toml'


def _origin(text: str) -> bytes:
    return text.strip().rstrip("/").lower().encode("utf-8", "replace")


def _host_of(authority: bytes) -> bytes | None:
    """Return the host of `host[:port]`, in lower case and without brackets; None if it is malformed."""
    match = _HOST.fullmatch(authority)
    return match[1].strip(b"[]").rstrip(b".").lower() if match else None


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


MAX_PRINCIPALS: Final = 1024
"""Remembered at once. Whoever is forgotten has a full allowance again."""


class RateLimit:
    """Allows `per_minute` requests in any burst, and as many a minute after it; 0 allows everything."""

    def __init__(self, per_minute: int) -> None:
        self._every = 60.0 / per_minute if per_minute > 0 else 0.0
        self._due: dict[str, float] = {}

    def refused_secs(self, principal: str, now: float) -> int:
        """Count one request; 0 if it is allowed, else the whole seconds after which one will be (RFC 9110 10.2.3).

        now: monotonic seconds. What is refused is not counted.
        """
        if not self._every:
            return 0
        due = max(self._due.get(principal, now), now)
        wait = due + self._every - now - 60.0
        if wait > 1e-6:
            return max(1, math.ceil(wait))
        if principal not in self._due and len(self._due) >= MAX_PRINCIPALS:
            self._forget(now)
        self._due[principal] = due + self._every
        return 0

    def _forget(self, now: float) -> None:
        self._due = {who: due for who, due in self._due.items() if due > now}
        if len(self._due) >= MAX_PRINCIPALS:
            del self._due[min(self._due, key=self._due.__getitem__)]
