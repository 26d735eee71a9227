"""What is asked for rarely, and by those who are not hosts: health, metrics, and whatever is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from moltis.threads import in_thread

__all__ = ["OAUTH", "plain_app"]

OAUTH: Final = frozenset({"/register", "/authorize", "/token"})
"""Where hosts without a token go that found no authorization server (MCP 2025-03-26, Fallbacks)."""
NO_OAUTH: Final = (
    "moltis has no OAuth for hosts: moltis token create NAME --scope write shows an access token once; put it into the "
    "host's entry as the header Authorization: Bearer TOKEN"
)
"""They print it (RFC 7591 section 3.2.2)."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def plain_app(ready: Callable[[], bool], metrics: Callable[[], Callable[[], bytes]] | None) -> Starlette:
    """Make the application; `metrics` as of `application.Application`, which has looked at the access token."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        if ready():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the configuration is not loaded\n", 503)

    async def metrics_text(request: Request) -> Response:
        assert metrics is not None
        text = await in_thread(metrics())
        return Response(text, headers={"content-type": METRICS_TYPE})

    async def nothing(request: Request, failure: Exception) -> Response:
        status = getattr(failure, "status_code", 404)
        headers = getattr(failure, "headers", None)
        return JSONResponse({"error": "there is nothing here"}, status, headers)

    async def no_oauth(request: Request) -> Response:
        told = {"error": "invalid_request", "error_description": NO_OAUTH}
        return JSONResponse(told, 400, {"cache-control": "no-store"})

    routes = [Route("/healthz", healthz), Route("/readyz", readyz)]
    routes += [Route(path, no_oauth, methods=["GET", "POST"]) for path in sorted(OAUTH)]
    if metrics is not None:
        routes.append(Route("/metrics", metrics_text))
    return Starlette(routes=routes, exception_handlers={404: nothing, 405: nothing})
