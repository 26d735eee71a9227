"""A server on a loopback port that says exactly the bytes it is told to."""

from __future__ import annotations

import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSListener

OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b'Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Heard:
    """One request as it was received; `headers` in lower case, `sni` the name that TLS was asked for."""

    line: str
    headers: dict[str, str]
    body: bytes
    sni: str | None = None


@dataclass
class Server:
    """heard: the requests; connections: how many there were, with or without a request; hung_up: one was ended."""

    port: int
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    hung_up: anyio.Event = field(default_factory=anyio.Event)

    async def give_up(self, scope: anyio.CancelScope) -> None:
        """Cancel what asks, a while after it has been heard."""
        while not self.heard:  # noqa: ASYNC110 - what is heard is a list
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        scope.cancel()


Script = Callable[[ByteStream, Heard], Awaitable[None]]
"""Answers one request; the connection stays open for the next one, unless it raises `Hangup`."""


class Hangup(Exception):
    """End the connection."""


def saying(*answers: bytes) -> Script:
    """Give the first answer to the first request, and so on; the last one to all others."""
    left = list(answers)

    async def script(stream: ByteStream, heard: Heard) -> None:
        await stream.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def ending(answer: bytes) -> Script:
    """Give an answer and hang up."""

    async def script(stream: ByteStream, heard: Heard) -> None:
        if answer:
            await stream.send(answer)
        raise Hangup

    return script


async def silent(stream: ByteStream, heard: Heard) -> None:
    """Say nothing, for as long as the other side stays."""
    while True:
        await stream.receive()


def repeating(head: bytes, piece: bytes, pause_secs: float | None = None) -> Script:
    """Say a head, and then the same piece for ever."""

    async def script(stream: ByteStream, heard: Heard) -> None:
        await stream.send(head)
        while True:
            await stream.send(piece)
            if pause_secs is not None:
                await anyio.sleep(pause_secs)

    return script


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))
    names: list[str | None] = []
    failure: Exception | None = None

    async def serve(stream: ByteStream) -> None:
        server.connections += 1
        async with stream:
            try:
                while True:
                    heard = await _request(stream)
                    heard.sni = names[-1] if names else None
                    server.heard.append(heard)
                    await script(stream, heard)
            except (anyio.BrokenResourceError, anyio.EndOfStream, Hangup):
                pass
            finally:
                server.hung_up.set()

    if tls is not None:
        tls.sni_callback = lambda _object, name, _context: names.append(name)
        listener = TLSListener(listener, tls, standard_compatible=False)  # type: ignore[assignment]
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        try:
            yield server
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure  # not as one of a group


@asynccontextmanager
async def blurting(greeting: bytes) -> AsyncIterator[Server]:
    """A server that says the same to whatever it hears first, HTTP or not, and hangs up."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))

    async def serve(stream: ByteStream) -> None:
        server.connections += 1
        async with stream:
            await stream.receive()
            await stream.send(greeting)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield server
        tasks.cancel_scope.cancel()


@contextmanager
def canary() -> Iterator[tuple[int, Callable[[], bool]]]:
    """A port of this machine that nobody may touch, and a way to ask whether somebody did."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        def touched() -> bool:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield listener.getsockname()[1], touched


BURST = 32 * 256 * 1024
"""What uvloop reads from one connection before anybody can tell it to wait: 32 reads of at most 256 KiB."""


@contextmanager
def within_memory(peak_bytes: int) -> Iterator[None]:
    """Check that what happens in here never needs more memory than that and a burst at once, beside what was there."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= peak_bytes + BURST, peak


async def _request(stream: ByteStream) -> Heard:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive()
    return Heard(line, headers, body)
