"""The client of one MCP server.

It does what it is told and nothing besides: it follows no redirect, keeps no cookie, asks the environment for no proxy
and no password, and accepts no compression. How long to wait for an answer is the caller's to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from moltis import __version__
from moltis.http.carrier import Backend, Carrier
from moltis.http.tls import tls_context
from moltis.http.words import CONNECT_SECS, WRITE_SECS

if TYPE_CHECKING:
    from moltis.proxies import Way

USER_AGENT = f"moltis/{__version__}"
MAX_CONNECTIONS = 100
KEEPALIVE_SECS = 30.0


def silence() -> None:
    """Let the libraries log nothing below a warning: at other levels they print URLs, which may hold secrets."""
    for name in ("httpx2", "httpcore2", "authlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


silence()


def server_client(
    ca_file: str | None, headers: Iterable[tuple[str, str]] = (), way: Way | None = None
) -> httpx2.AsyncClient:
    """Make the client of one MCP server; close it with `aclose`.

    It connects within 10 s, sends as long as the other side takes something every 30 s, and waits for an answer, or for
    one of its 100 connections, without bound.

    headers: sent with every request, unless the request has its own of that name. Accept-Encoding is not theirs to say.
    way: to the server's origin, if that is through a proxy.

    Raises:
        CaFileError: `ca_file` cannot be used.
    """
    own = httpx2.Headers([(name.encode(), value.encode()) for name, value in headers])
    own.setdefault("User-Agent", USER_AGENT)
    own["Accept-Encoding"] = "identity"
    return httpx2.AsyncClient(
        transport=_carrier(ca_file, way),
        headers=own,
        timeout=httpx2.Timeout(connect=CONNECT_SECS, write=WRITE_SECS, read=None, pool=None),
        cookies=_NoCookies(),
        follow_redirects=False,
        trust_env=False,
    )


def _carrier(ca_file: str | None, way: Way | None) -> Carrier:
    if way is None:
        return Carrier(_pool(ca_file, Backend()))
    from moltis.http.proxied import ForwardedCarrier, ProxiedBackend

    pool = _pool(ca_file, ProxiedBackend(way, Backend(), ca_file))
    return ForwardedCarrier(pool, way.proxy) if way.forwards else Carrier(pool)


def _pool(ca_file: str | None, backend: httpcore2.AsyncNetworkBackend) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(
        ssl_context=tls_context(ca_file),
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_CONNECTIONS,
        keepalive_expiry=KEEPALIVE_SECS,
        network_backend=backend,
    )


class _NoCookies(CookieJar):
    """Cookies belong to one connection and its credentials (`moltis.http.cookies`), of which a client knows nothing."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        return
