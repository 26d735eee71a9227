"""What is asked for rarely, and by those who are not hosts: health, metrics, and whatever is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from moltis.access import Access
from moltis.gateway.http.reading import Inbound
from moltis.gateway.metrics import CONTENT_TYPE
from moltis.httpd.asgi import Header, Receive, respond
from moltis.httpd.router import Route
from moltis.threads import in_thread

OAUTH: Final = ("/register", "/authorize", "/token")
"""Where hosts without a token go that found no authorization server (MCP 2025-03-26, Fallbacks)."""
WELL_KNOWN: Final = "/.well-known/*"
"""Where hosts look for an authorization server (RFC 9728), before they have a token: there is none."""
NO_OAUTH: Final = (
    "moltis has no OAuth for hosts: moltis token create NAME --scope write shows an access token once; put it into the "
    "host's entry as the header Authorization: Bearer TOKEN"
)
"""They print it (RFC 7591 section 3.2.2)."""

TEXT: Final = b"text/plain; charset=utf-8"
METRICS_TEXT: Final = (b"content-type", CONTENT_TYPE.encode())
JSON: Final = b"application/json"
READING: Final = ("GET", "HEAD")

Metrics = Callable[[], Callable[[], bytes]]


def routes(ready: Callable[[], bool], metrics: Metrics | None) -> list[Route[Inbound]]:
    """Return the routes; `ready` and `metrics` as of `application.Application`."""
    found = [
        Route("/healthz", Access.PUBLIC, _health),
        Route("/readyz", Access.PUBLIC, partial(_readiness, ready)),
        *(Route(path, Access.PUBLIC, _no_oauth) for path in OAUTH),
        Route(WELL_KNOWN, Access.PUBLIC, nothing),
    ]
    if metrics is not None:
        found.append(Route("/metrics", Access.READ, partial(_metrics_text, metrics)))
    slashed = [Route(f"{route.path}/", Access.READ, _elsewhere) for route in found if route.path != WELL_KNOWN]
    return [*found, *slashed]


async def nothing(inbound: Inbound, _receive: Receive) -> None:
    """Answer what is not there."""
    await _answer(inbound, 404, JSON, _json({"error": "there is nothing here"}))


async def _health(inbound: Inbound, _receive: Receive) -> None:
    if await _is_of(READING, inbound):
        await _answer(inbound, 200, TEXT, b"ok\n")


async def _readiness(ready: Callable[[], bool], inbound: Inbound, _receive: Receive) -> None:
    if not await _is_of(READING, inbound):
        return
    if ready():
        await _answer(inbound, 200, TEXT, b"ok\n")
    else:
        await _answer(inbound, 503, TEXT, b"the configuration is not loaded\n")


async def _metrics_text(metrics: Metrics, inbound: Inbound, _receive: Receive) -> None:
    if await _is_of(READING, inbound):
        await respond(inbound.send, 200, [METRICS_TEXT], await in_thread(metrics()))


async def _no_oauth(inbound: Inbound, _receive: Receive) -> None:
    if await _is_of((*READING, "POST"), inbound):
        body = _json({"error": "invalid_request", "error_description": NO_OAUTH})
        await _answer(inbound, 400, JSON, body, (b"cache-control", b"no-store"))


async def _elsewhere(inbound: Inbound, _receive: Receive) -> None:
    """Send who writes a slash behind a path there; `Host` was looked at."""
    query = inbound.scope["query_string"].decode("latin-1")
    url = f"http://{inbound.headers[b'host'].decode('latin-1')}{inbound.scope['path'][:-1]}{query and '?'}{query}"
    location = (b"location", quote(url, safe=":/%#?=@[]!$&'()*+,;").encode())
    await inbound.send({"type": "http.response.start", "status": 307, "headers": [(b"content-length", b"0"), location]})
    await inbound.send({"type": "http.response.body", "body": b""})


async def _is_of(methods: tuple[str, ...], inbound: Inbound) -> bool:
    """Whether it is asked for by one of these methods; any other is answered here."""
    if inbound.method in methods:
        return True
    allow = (b"allow", ", ".join(methods).encode())
    await _answer(inbound, 405, JSON, _json({"error": "there is nothing here"}), allow)
    return False


async def _answer(inbound: Inbound, status: int, media_type: bytes, body: bytes, *more: Header) -> None:
    headers = [*more, (b"content-length", b"%d" % len(body)), (b"content-type", media_type)]
    await inbound.send({"type": "http.response.start", "status": status, "headers": headers})
    await inbound.send({"type": "http.response.body", "body": body})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
