"""A server of HTTP+SSE that is a script, and a client that writes down what it is told; all of it in memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import httpx2
from no_credentials import NoCredentials

from moltis.config.limits import Limits
from moltis.errors import MoltisError
from moltis.http.authorized import Credentials
from moltis.transport import PLAIN, Ended, Notices, Outgoing, Receiver
from moltis.transport.remote.base import Endpoint, RemoteConnection
from moltis.transport.remote.opening import FallbackConnection

URL = "https://mcp.example/sse?api_key=SECRET"
LIMITS = Limits(max_message_bytes=10_000, stop_eof_secs=2)

Json = dict[str, Any]
C = TypeVar("C", RemoteConnection, FallbackConnection)


class Body(httpx2.AsyncByteStream):
    """A body that is written while it is read."""

    def __init__(self) -> None:
        self._said: deque[bytes | Exception | None] = deque()
        self._more = anyio.Event()
        self.closed = False

    def write(self, data: bytes) -> None:
        self._put(data)

    def event(self, name: str, data: str) -> None:
        self._put(f"event: {name}\ndata: {data}\n\n".encode())

    def message(self, message: Json) -> None:
        self.event("message", json.dumps(message, separators=(",", ":")))

    def end(self, fault: Exception | None = None) -> None:
        self._put(fault)

    def _put(self, item: bytes | Exception | None) -> None:
        self._said.append(item)
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while not self._said:
                self._more = anyio.Event()
                await self._more.wait()
            item = self._said.popleft()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    async def aclose(self) -> None:
        self.closed = True


def streaming(body: Body, status: int = 200, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    fields = {"Content-Type": "text/event-stream", **(headers or {})}
    return httpx2.Response(status, headers=fields, stream=body)


def answering(status: int, **how: Any) -> Callable[..., Awaitable[httpx2.Response]]:
    """Always answer so; `how` as for `httpx2.Response`."""

    async def answer(*asked: Any) -> httpx2.Response:
        made = httpx2.Response(status, **how)
        return httpx2.Response(status, headers=made.headers, stream=httpx2.ByteStream(made.content))

    return answer


def raising(fault: Exception) -> Any:
    """Never answer."""

    async def answer(*asked: Any) -> httpx2.Response:
        raise fault

    return answer


def result(message: Json, value: Any = None) -> Json:
    return {"jsonrpc": "2.0", "id": message["id"], "result": {} if value is None else value}


class OldServer:
    """Answers a GET with a stream that says where messages go, takes every POST, and answers requests on the stream.

    on_get, on_post: set by a test to do otherwise; each gets the request, `on_post` with its message.
    """

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.posted: list[Json] = []
        self.streams: list[Body] = []
        self.location = "/messages?sessionId=1"
        self.on_get: Callable[[httpx2.Request], Awaitable[httpx2.Response]] = self.open_stream
        self.on_post: Callable[[httpx2.Request, Json], Awaitable[httpx2.Response]] = self.take

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        await anyio.sleep(0.01)
        if request.method == "GET":
            return await self.on_get(request)
        message = json.loads(await request.aread())
        self.posted.append(message)
        return await self.on_post(request, message)

    @property
    def stream(self) -> Body:
        return self.streams[-1]

    @property
    def gets(self) -> list[httpx2.Request]:
        return [request for request in self.requests if request.method == "GET"]

    @property
    def methods(self) -> list[str]:
        return [message.get("method", "") for message in self.posted]

    async def open_stream(self, request: httpx2.Request) -> httpx2.Response:
        self.streams.append(Body())
        self.stream.event("endpoint", self.location)
        return streaming(self.stream)

    async def take(self, request: httpx2.Request, message: Json) -> httpx2.Response:
        if "id" in message and "method" in message:
            self.stream.message(result(message, {"method": message["method"]}))
        return httpx2.Response(202, text="Accepted")

    def client(self) -> httpx2.AsyncClient:
        headers = {"Authorization": "Bearer CONFIGURED", "X-Key": "k"}
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self), headers=headers, trust_env=False)


class Told:
    """What a connection tells, as it comes."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.failed: dict[int, MoltisError] = {}
        self.heard_count = 0
        self.unsent: set[int] = set()
        self.oversized = 0
        self.oddities: list[str] = []
        self._news = anyio.Event()

    def busy_until(self) -> float:
        return -math.inf

    def receive(self, message: bytes, during: int | None = None) -> None:
        self.messages.append(message)
        self._news.set()

    def request_failed(self, id: int, error: MoltisError, *, sent: bool = True) -> None:
        assert id not in self.failed, "a request fails once"
        self.failed[id] = error
        self.unsent |= set() if sent else {id}
        self._news.set()

    def waits_for(self, id: int) -> bool:
        return False

    def heard(self) -> None:
        self.heard_count += 1

    def missed(self) -> None:
        raise AssertionError("nothing is missed on such a connection that its end does not tell")

    def on_oversized(self, count: int) -> None:
        self.oversized += count

    def odd(self, words: str) -> None:
        self.oddities.append(words)

    def reply(self, id: int) -> Json | None:
        found = [m for m in map(json.loads, self.messages) if m.get("id") == id and "method" not in m]
        assert len(found) <= 1, "a request has one reply"
        return found[0] if found else None

    async def outcome(self, id: int, secs: float = 100) -> Json | MoltisError:
        """Wait for the reply to a request, or its failure."""
        with anyio.fail_after(secs):
            while True:
                if id in self.failed:
                    assert self.reply(id) is None, "a request has one outcome"
                    return self.failed[id]
                reply = self.reply(id)
                if reply is not None:
                    return reply
                self._news = anyio.Event()
                await self._news.wait()

    async def failure(self, id: int) -> str:
        outcome = await self.outcome(id)
        assert isinstance(outcome, MoltisError), outcome
        assert "SECRET" not in outcome.message
        return outcome.message


class Line:
    """A connection and the one who uses it."""

    def __init__(self, connection: RemoteConnection | FallbackConnection, told: Told) -> None:
        self.connection = connection
        self.told = told

    def ask(self, id: int, method: str, version: str | None = None, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        self.connection.send(json.dumps(message).encode(), Outgoing(id, method, None, version))

    def tell(self, method: str, version: str | None = "2024-11-05", cancels: int | None = None, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        about = Outgoing(None, method, version=version, cancels=cancels)
        self.connection.send(json.dumps(message).encode(), about)

    def answer(self, message: Json) -> None:
        self.connection.send(json.dumps(message).encode(), PLAIN)

    async def begin(self) -> None:
        """Do the handshake of the older era."""
        self.ask(1, "initialize")
        assert isinstance(await self.told.outcome(1), dict)
        self.tell("notifications/initialized")
        await anyio.sleep(0.1)

    async def lost(self, secs: float = 100) -> Ended:
        with anyio.fail_after(secs):
            ended = await self.connection.wait_lost()
        assert "SECRET" not in ended.message
        return ended


@asynccontextmanager
async def line(
    make: Callable[[Endpoint, Receiver, Notices], C],
    handler: Any,
    credentials: Credentials | None = None,
    limits: Limits = LIMITS,
    url: str = URL,
) -> AsyncIterator[Line]:
    """Open a connection to `handler`, and see at the end that nothing is left of it."""
    told = Told()
    opened = httpx2.AsyncClient if handler is None else handler.client
    endpoint = Endpoint(
        "old", url, limits, credentials or NoCredentials(), partial(opened), (), on_oversized=told.on_oversized
    )
    connection = make(endpoint, told.receive, told)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        yield Line(connection, told)
        connection.kill()
        with anyio.fail_after(5):
            await connection.wait_closed()
    assert all(stream.closed for stream in getattr(handler, "streams", ()))
