"""What carries the requests of a client: connections of httpcore2 under the interface of httpx2.

httpx2's own transport does as much, but leaves the generator of a body that is not read to its end to the garbage
collector, and passes a body in a million pieces on without ever letting others run.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing

import httpcore2
import httpx2

from moltis.http.bodies import in_turn


class Carrier(httpx2.AsyncBaseTransport):
    """Sends each request on a connection of a pool.

    Raises the errors of httpx2 (`TransportError`), from the one of httpcore2 that has the cause.
    """

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        url = request.url
        inner = httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            response = await self._pool.handle_async_request(inner)
        except Exception as error:
            raise _of_httpx(error) from error
        assert isinstance(response.stream, AsyncIterable)
        body = _Body(response.stream)
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    async def aclose(self) -> None:
        await self._pool.aclose()


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
