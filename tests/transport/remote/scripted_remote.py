"""A scripted HTTP server on loopback, and connections to it whose every word is kept; both on one loop."""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.abc
import httpx2
import msgspec
from no_credentials import NoCredentials
from patience import PATIENCE

from moltis.config.limits import Limits
from moltis.errors import MoltisError
from moltis.http.authorized import Credentials, Refusal
from moltis.http.clients import server_client
from moltis.session import envelope
from moltis.transport import Outgoing
from moltis.transport.remote.base import Endpoint, RemoteConnection
from moltis.transport.remote.streamable import StreamableConnection
from moltis.unicode import mend

LEGACY = "2025-11-25"
MODERN = "2026-07-28"


@dataclass(frozen=True)
class Request:
    """One request as it came. Header names are lower case; `at` is the loop's time."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def message(self) -> dict[str, Any]:
        """Its body as JSON."""
        return json.loads(self.body) if self.body else {}

    @property
    def rpc(self) -> str:
        """The JSON-RPC method in it, or the HTTP method if it has none."""
        return str(self.message.get("method", self.method))


class Peer:
    """The server's side of one request."""

    def __init__(self, stream: anyio.abc.SocketStream, request: Request) -> None:
        self.stream = stream
        self.request = request
        self.keeps = True

    async def answer(
        self, status: int = 200, body: bytes | dict[str, Any] = b"", kind: str = "application/json", **headers: str
    ) -> None:
        """Send a whole answer. Header names are written with underscores."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        fields = {"content-length": str(len(body)), "content-type": kind, **_dashed(headers)}
        await self.raw(_head(status, fields) + body)

    async def result(self, result: Any = None, **headers: str) -> None:
        """Answer the request with a JSON-RPC result."""
        await self.answer(200, self.reply(result), "application/json", **headers)

    def reply(self, result: Any = None) -> dict[str, Any]:
        """Make the JSON-RPC reply to the request."""
        return {"jsonrpc": "2.0", "id": self.request.message["id"], "result": result if result is not None else {}}

    async def begin_events(self, **headers: str) -> None:
        """Begin an answer that is a stream of events, and ends with the connection."""
        self.keeps = False
        fields = {"content-type": "text/event-stream", "connection": "close", **_dashed(headers)}
        await self.raw(_head(200, fields))

    async def event(self, data: Any = None, *, id: str | None = None, retry: int | None = None) -> None:
        """Send one event; `data` is JSON, None for none."""
        lines = [] if id is None else [f"id: {id}"]
        lines += [] if retry is None else [f"retry: {retry}"]
        lines.append("data: " + ("" if data is None else json.dumps(data)))
        await self.raw("\n".join([*lines, "", ""]).encode())

    async def raw(self, data: bytes) -> None:
        """Send bytes."""
        await self.stream.send(data)

    async def gone(self) -> None:
        """Wait until the client has hung up."""
        try:
            while await self.stream.receive():
                pass
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    def hang_up(self) -> None:
        """Say no more after this."""
        self.keeps = False

    def reset(self) -> None:
        """Have the connection end with RST."""
        self.keeps = False
        raw = self.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Script = Callable[[Peer], Awaitable[None]]
ServerT = TypeVar("ServerT", bound="HttpServer")


class HttpServer:
    """Serves scripts: `on[what]` for a JSON-RPC or HTTP method, otherwise `fallback`. `requests` is what came."""

    def __init__(self, fallback: Script) -> None:
        self.on: dict[str, Script] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self.port = 0
        self.tasks: anyio.abc.TaskGroup | None = None
        self._up = anyio.CancelScope()
        self._fallback = fallback

    async def come_up(self) -> None:
        """Listen, on the same port as before."""
        assert self.tasks is not None
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self._up = anyio.CancelScope()
        self.tasks.start_soon(self._listen, listener, self._up)

    async def go_down(self) -> None:
        """Close everything, as a process that is killed."""
        self._up.cancel()
        await anyio.sleep(0.001)

    async def _listen(self, listener: anyio.abc.Listener[anyio.abc.SocketStream], up: anyio.CancelScope) -> None:
        with up:
            async with listener:
                await listener.serve(self.serve)

    def seen(self) -> list[str]:
        """Give what came, in order: the JSON-RPC method of each, or the HTTP method."""
        return [request.rpc for request in self.requests]

    def count(self, rpc: str) -> int:
        """Count what came of one kind."""
        return self.seen().count(rpc)

    def of(self, rpc: str) -> list[Request]:
        """Give what came of one kind."""
        return [request for request in self.requests if request.rpc == rpc]

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        buffer = b""
        async with stream:
            try:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        buffer += await stream.receive()
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    first, *fields = head.decode("latin-1").split("\r\n")
                    headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
                    size = int(headers.get("content-length", 0))
                    while len(buffer) < size:
                        buffer += await stream.receive()
                    body, buffer = buffer[:size], buffer[size:]
                    method, path, _ = first.split(" ")
                    request = Request(method, path, headers, body, anyio.current_time())
                    self.requests.append(request)
                    peer = Peer(stream, request)
                    await self.on.get(request.rpc, self._fallback)(peer)
                    if not peer.keeps:
                        return
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass


class McpServer(HttpServer):
    """A server of MCP 2025-11-25 with sessions `s1`, `s2`, ... that answers every request with `{}`.

    sessions: those it knows. stream: whether it has a GET stream, which then says nothing.
    """

    def __init__(self, *, stateful: bool = True, stream: bool = False) -> None:
        super().__init__(self._any)
        self.stateful = stateful
        self.stream = stream
        self.sessions: set[str] = set()
        self.begun = 0
        self.on["initialize"] = self._initialize
        self.on["GET"] = self._get
        self.on["DELETE"] = self._delete

    def forget(self) -> None:
        """Lose all sessions, as a server that restarts."""
        self.sessions.clear()

    async def unknown(self, peer: Peer) -> bool:
        """Refuse a request of an unknown session, as the specification says; True if it was."""
        known = not self.stateful or peer.request.headers.get("mcp-session-id") in self.sessions
        if not known:
            await peer.answer(404, {"jsonrpc": "2.0", "id": None, "error": {"code": -32001, "message": "no session"}})
        return not known

    async def _initialize(self, peer: Peer) -> None:
        self.begun += 1
        headers = {}
        if self.stateful:
            headers["mcp_session_id"] = f"s{self.begun}"
            self.sessions.add(f"s{self.begun}")
        info = {"name": "scripted", "version": "1"}
        await peer.result({"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": info}, **headers)

    async def _any(self, peer: Peer) -> None:
        if await self.unknown(peer):
            return
        if "id" in peer.request.message and "method" in peer.request.message:
            await peer.result()
        else:
            await peer.answer(202)

    async def _get(self, peer: Peer) -> None:
        if not self.stream:
            await peer.answer(405)
        elif not await self.unknown(peer):
            await peer.begin_events()
            await peer.gone()

    async def _delete(self, peer: Peer) -> None:
        self.sessions.discard(peer.request.headers.get("mcp-session-id", ""))
        await peer.answer(200)


@asynccontextmanager
async def serving(server: ServerT) -> AsyncIterator[ServerT]:
    """Run a server on loopback for as long as this lasts; it can go down and come up again meanwhile."""
    async with anyio.create_task_group() as tasks:
        server.tasks = tasks
        await server.come_up()
        yield server
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], object], secs: float = PATIENCE) -> None:
    """Wait until something is the case that has no event of its own."""
    with anyio.fail_after(secs):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


class FakeCredentials:
    """Says what a test wants it to: `values` one after the other, the last one for ever; `verdicts` likewise."""

    def __init__(self, *values: str | MoltisError | None, verdicts: tuple[bool | MoltisError, ...] = ()) -> None:
        self.values = list(values) or [None]
        self.verdicts = list(verdicts)
        self.refusals: list[Refusal] = []

    async def authorization(self) -> str | None:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if isinstance(value, MoltisError):
            raise value
        return value

    async def refused(self, refusal: Refusal) -> bool:
        self.refusals.append(refusal)
        verdict = self.verdicts.pop(0) if self.verdicts else False
        if isinstance(verdict, MoltisError):
            raise verdict
        return verdict


@dataclass
class Heard:
    """What a connection said to the session above it."""

    messages: list[Any] = field(default_factory=list)
    during: list[int | None] = field(default_factory=list)
    failures: dict[int, MoltisError] = field(default_factory=dict)
    unsent: set[int] = field(default_factory=set)
    heard_count: int = 0
    missed_at: list[float] = field(default_factory=list)
    oversized: int = 0
    oddities: list[str] = field(default_factory=list)
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def receive(self, message: bytes, during: int | None = None) -> bool:
        incoming = envelope.parse(message)
        taken = not isinstance(incoming, envelope.Junk)
        if taken or message == b"{}":  # what floods are made of; no test looks for other junk
            self.messages.append(msgspec.json.decode(mend(message) or message))
            self.during.append(during)
            self._change()
        return taken

    def request_failed(self, id: int, error: MoltisError, *, sent: bool = True) -> None:
        assert id not in self.failures
        self.failures[id] = error
        self.unsent |= set() if sent else {id}
        self._change()

    def waits_for(self, id: int) -> bool:
        return id not in self.failures and not self.replies(id)

    def heard(self) -> None:
        self.heard_count += 1

    def missed(self) -> None:
        self.missed_at.append(anyio.current_time())
        self._change()

    def odd(self, words: str) -> None:
        self.oddities.append(words)

    def count_oversized(self, count: int) -> None:
        self.oversized += count

    def replies(self, id: int) -> list[dict[str, Any]]:
        """Give the replies to one request. There is at most one in a world that is right."""
        return [
            m
            for m in self.messages
            if isinstance(m, dict) and str(m.get("id")).removesuffix(".0") == str(id) and "method" not in m
        ]

    async def wait(self, condition: Callable[[], object], secs: float = math.inf) -> None:
        """Wait until something is the case that only changes with what is heard."""
        with anyio.fail_after(secs):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()


class Dialled:
    """A connection, and what it says."""

    def __init__(self, connection: RemoteConnection, heard: Heard) -> None:
        self.connection = connection
        self.heard = heard
        self.version: str | None = None
        self._last_id = 0

    def send(self, method: str, params: Any = None, **about: Any) -> int:
        """Send a request, and give its id."""
        self._last_id += 1
        id = self._last_id
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params if params is not None else {}}
        version = about.pop("version", self.version)
        self.connection.send(json.dumps(message).encode(), Outgoing(id, method, version=version, **about))
        return id

    def tell(self, method: str, **about: Any) -> None:
        """Send a notification."""
        message = json.dumps({"jsonrpc": "2.0", "method": method}).encode()
        self.connection.send(message, Outgoing(None, method, version=self.version, **about))

    async def outcome(self, id: int) -> dict[str, Any] | MoltisError:
        """Wait for the reply to a request or its failure, and see that there was only one of both."""
        heard = self.heard
        await heard.wait(lambda: id in heard.failures or heard.replies(id))
        assert (id in heard.failures) + len(heard.replies(id)) == 1
        return heard.failures[id] if id in heard.failures else heard.replies(id)[0]

    async def ask(self, method: str, params: Any = None, **about: Any) -> dict[str, Any] | MoltisError:
        """Send a request and wait for what comes of it."""
        return await self.outcome(self.send(method, params, **about))

    async def shake_hands(self, version: str = LEGACY) -> None:
        """Agree on a revision, as a session does."""
        if version < MODERN:
            assert isinstance(await self.ask("initialize", {"protocolVersion": version}), dict)
            self.version = version
            self.tell("notifications/initialized")
        else:
            self.version = version
            assert isinstance(await self.ask("server/discover"), dict)


@asynccontextmanager
async def dialled(
    url: str,
    *,
    limits: Limits | None = None,
    credentials: Credentials | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    make: Callable[..., RemoteConnection] = StreamableConnection,
    **options: Any,
) -> AsyncIterator[Dialled]:
    """Connect; the connection is killed at the end, and nothing it does raises."""
    heard = Heard()

    def open_client() -> httpx2.AsyncClient:
        return server_client(None, headers)

    endpoint = Endpoint(
        "scripted",
        url,
        limits or Limits(),
        credentials or NoCredentials(),
        open_client,
        headers=headers,
        on_oversized=heard.count_oversized,
    )
    async with anyio.create_task_group() as tasks:
        connection = make(endpoint, heard.receive, heard, **options)
        tasks.start_soon(connection.run)
        yield Dialled(connection, heard)
        connection.kill()
        await connection.wait_closed()


def _head(status: int, fields: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
