"""What carries the requests of a client: connections of httpcore2 under the interface of httpx2.

httpx2's own transport does as much, but leaves the generator of a body that is not read to its end to the garbage
collector, and passes a body in a million pieces on without ever letting others run. And here a request is one write,
what is given up is closed, and a dead connection is noticed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, suppress
from typing import Any, Final

import anyio
import httpcore2
import httpx2

from moltis.http.bodies import in_turn
from moltis.http.dialing import Resolve, first_to_answer, resolve
from moltis.http.words import WRITE_SECS

JOINED_BYTES = 64 * 1024
"""Up to so long, copying a body behind its head is cheaper than writing both."""

READ_BYTES = 512 * 1024
"""More than the event loop hands over at once. The stack asks for 64 KiB, and the rest is moved each time it does."""
KEEPALIVE_IDLE_SECS = 60
KEEPALIVE_INTERVAL_SECS = 15
KEEPALIVE_PROBES = 4
"""A stream of events may be silent for hours; two minutes after its server's machine is gone, it breaks off."""


class Backend(httpcore2.AsyncNetworkBackend):
    """Makes the connections of a pool, to any of the addresses that a host has."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a host; its name takes 10 s at most, and the connection what that leaves of `timeout`.

        Raises:
            httpcore2.ConnectError, httpcore2.ConnectTimeout: it has no address, or none that answers.
        """
        began = anyio.current_time()
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(error) from error
        if not addresses:
            raise httpcore2.ConnectError(socket.gaierror(socket.EAI_NONAME, "no address"))
        left = None if timeout is None else began + timeout - anyio.current_time()
        try:
            with anyio.fail_after(left):
                plain = await first_to_answer(
                    addresses,
                    lambda address: self._plain.connect_tcp(address, port, None, local_address, socket_options),
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(error) from error
        _keep_alive(plain)
        return Stream(plain)


class Stream(httpcore2.AsyncNetworkStream):
    """A connection whose first write after a read waits for the second, or for the next read.

    The stack writes the head of a request and then its body, and reads after that. As one write that is one packet, one
    TLS record and one wakeup of the server, and an eighth of the time that a small request takes here.
    """

    def __init__(self, plain: httpcore2.AsyncNetworkStream) -> None:
        self._plain = plain
        self._held = b""
        self._holds = True

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._holds:
            self._held, self._holds = buffer, False
            return
        held, self._held = self._held, b""
        if held and len(buffer) > JOINED_BYTES:
            await self._plain.write(held, timeout)
            held = b""
        await self._plain.write(held + buffer if held else buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        held, self._held, self._holds = self._held, b"", True
        if held:
            # As the stack does: a server may have refused the request, and said so, before it hung up.
            with suppress(httpcore2.WriteError):
                await self._plain.write(held, WRITE_SECS)
        return await self._plain.read(max(max_bytes, READ_BYTES), timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return Stream(await self._plain.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            # When this is cancelled, the stack leaves the connection open, and uvloop keeps it for ever.
            with anyio.CancelScope(shield=True):
                await self._plain.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)

    async def aclose(self) -> None:
        await self._plain.aclose()


def _keep_alive(stream: httpcore2.AsyncNetworkStream) -> None:
    """Have the system ask now and then whether the other side is still there."""
    options = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (
            socket.IPPROTO_TCP,
            "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE",
            KEEPALIVE_IDLE_SECS,
        ),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECS),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
    ]
    raw = stream.get_extra_info("socket")
    for level, name, value in options:
        number = getattr(socket, name, None)
        if number is not None:
            with suppress(OSError):  # it broke off already, which the first write says better
                raw.setsockopt(level, number, value)


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
    """Return the error of httpx2 of the same name; the two libraries name theirs alike."""
    for kind in type(error).__mro__:
        twin = getattr(httpx2, kind.__name__, None)
        if (
            kind.__module__.startswith("httpcore2")
            and isinstance(twin, type)
            and issubclass(twin, httpx2.TransportError)
        ):
            return twin("the connection failed")
    return httpx2.NetworkError("the connection failed")
