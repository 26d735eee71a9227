"""What carries the requests of a client: connections of httpcore2 under the interface of httpx2.

httpx2's own transport does as much, and three things less: it closes no connection whose TLS handshake is cancelled,
which uvloop then keeps for ever; it leaves the generator of a body that is not read to its end to the garbage
collector; and it passes a body in a million pieces on without ever letting others run.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import anyio
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


class CarefulBackend(httpcore2.AsyncNetworkBackend):
    """Makes connections that are closed when their TLS handshake is given up."""

    def __init__(self) -> None:
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Careful(await self._plain.connect_tcp(host, port, timeout, local_address, socket_options))


class _Careful(httpcore2.AsyncNetworkStream):
    def __init__(self, plain: httpcore2.AsyncNetworkStream) -> None:
        self._plain = plain

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._plain.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._plain.write(buffer, timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._plain.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._plain.aclose()
            raise

    async def aclose(self) -> None:
        await self._plain.aclose()


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
