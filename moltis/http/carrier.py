"""What carries the requests of a client: connections of httpcore2 under the interface of httpx2.

httpx2's own transport does as much, but leaves the generator of a body that is not read to its end to the garbage
collector, and passes a body in a million pieces on without ever letting others run.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Final

import httpcore2
import httpx2

from moltis.http.bodies import in_turn

FRESH: Final = "fresh"
"""A request with this extension goes by no connection that was idle before; those are closed."""
UNANSWERED: Final = (
    httpcore2.ReadError,
    httpcore2.WriteError,
    httpcore2.RemoteProtocolError,
    httpcore2.TimeoutException,
)
"""How a request ends to which no answer begins, once there is a connection (`ConnectTimeout` costs nothing either)."""


class Carrier(httpx2.AsyncBaseTransport):
    """Sends each request on a connection of a pool.

    What ends one connection without an answer (a gateway that restarts, a NAT that forgets) has mostly ended all that
    lay idle beside it. They are closed then, so that one request is lost to it and not one for each.

    Raises the errors of httpx2 (`TransportError`), from the one of httpcore2 that has the cause.
    """

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        inner = self._asked(request)
        if FRESH in request.extensions:
            await self._close_idle()
        try:
            response = await self._pool.handle_async_request(inner)
        except Exception as error:
            if isinstance(error, UNANSWERED):
                await self._close_idle()
            raise _of_httpx(error) from error
        assert isinstance(response.stream, AsyncIterable)
        body = _Body(response.stream)
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    def _asked(self, request: httpx2.Request) -> httpcore2.Request:
        """Return the request as the pool sends it."""
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        url = request.url
        return httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _close_idle(self) -> None:
        """Close what nothing is sent on. A request that was just given one of them takes another."""
        for connection in self._pool.connections:
            if connection.is_idle():
                await connection.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(in_turn(self._stream)) as pieces:
                async for piece in pieces:
                    yield piece
        except Exception as error:
            raise _of_httpx(error) from error

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


def _of_httpx(error: Exception) -> httpx2.TransportError:
    """Give the error of httpx2 of the same name; the two libraries name theirs alike."""
    for kind in type(error).__mro__:
        twin = getattr(httpx2, kind.__name__, None)
        if (
            kind.__module__.startswith("httpcore2")
            and isinstance(twin, type)
            and issubclass(twin, httpx2.TransportError)
        ):
            return twin("the connection failed")
    return httpx2.NetworkError("the connection failed")
