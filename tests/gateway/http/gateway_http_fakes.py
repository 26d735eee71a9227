"""A gateway that does as it is told, and a client that speaks HTTP byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import SocketStream

from moltis.errors import UnknownServer
from moltis.gateway import messages
from moltis.gateway.api import Outlet, Principal
from moltis.gateway.messages import Answer, Ask, Tell
from moltis.gateway.views import ALL

INITIALIZED = b'{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"stub","version":"1"}}'
PRINCIPALS = {
    "good": Principal("good", True),
    "other": Principal("other", True),
    "reader": Principal("reader", False),
}
BOTH = "application/json, text/event-stream"
MODERN = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def authenticate(token: str) -> Principal | None:
    return PRINCIPALS.get(token)


def server_at(path: str) -> str | None:
    return None if path == ALL else path.split("/")[2]


class StubHost:
    """Answers `echo` and `initialize` at once; keeps every other request in `waiting`, to be answered by the test."""

    def __init__(self, server: str | None, principal: Principal, unsolicited: Callable[[bytes], bool]) -> None:
        self.server = server
        self.principal = principal
        self.unsolicited = unsolicited
        self.asks: list[Ask] = []
        self.waiting: list[tuple[Ask, Outlet]] = []
        self.tells: list[Tell] = []
        self.answers: list[Answer] = []
        self.times_attached = 0
        self.is_closed = False
        self.kept: list[bytes] = []
        self.changed: list[str] = []

    def request(self, ask: Ask, outlet: Outlet) -> None:
        self.asks.append(ask)
        match ask.method:
            case "initialize" if "wrong" in ask.params:
                outlet.reply(messages.error(ask.id, -32602, "wrong"))
            case "initialize":
                outlet.reply(messages.result(ask.id, INITIALIZED))
            case "server/discover":
                outlet.reply(messages.result(ask.id, b'{"supportedVersions":["2026-07-28"]}'))
            case "echo":
                outlet.reply(messages.result(ask.id, b'{"echo":%b}' % bytes(ask.params.get("text", b"null"))))
            case "unknown":
                outlet.reply(messages.error(ask.id, -32601, "no such method"), 404)
            case "break":
                raise RuntimeError("canary-in-exception")
            case "chatty":
                outlet.tell(messages.notification("notifications/progress", b'{"n":1}'))
                outlet.reply(messages.result(ask.id, b"{}"))
            case _:
                self.waiting.append((ask, outlet))

    def notification(self, tell: Tell) -> None:
        self.tells.append(tell)

    def answer(self, answer: Answer) -> None:
        self.answers.append(answer)

    def drop(self, id: bytes, reason: str) -> None:
        raise AssertionError("not used by HTTP")

    def attached(self) -> None:
        self.times_attached += 1
        for message in self.kept:
            assert self.unsolicited(message)
        self.kept.clear()

    def list_changed(self, method: str) -> None:
        self.changed.append(method)

    def resource_updated(self, uri: str, params: dict[str, Any]) -> None:
        self.changed.append(uri)

    def close(self) -> None:
        self.is_closed = True


class StubGateway:
    def __init__(self) -> None:
        self.hosts: list[StubHost] = []
        self.servers = {"files", "git"}
        self.tools: dict[tuple[str | None, str], bytes] = {}
        self.is_closed = False

    def new_host(
        self, path: str, principal: Principal, unsolicited: Callable[[bytes], bool], *, lasts: bool = True
    ) -> StubHost:
        server = server_at(path)
        if server is not None and server not in self.servers:
            raise UnknownServer(server, self.servers)
        host = StubHost(server, principal, unsolicited)
        self.hosts.append(host)
        return host

    def knows(self, path: str) -> bool:
        return server_at(path) in {None, *self.servers}

    def why_unknown(self, path: str) -> str:
        return "there is no project of that name" if path.startswith("/mcp/") else "there is no server of that name"

    def path_in(self, folder: str) -> str:
        return ALL

    def tool(self, path: str, name: str) -> bytes | None:
        return self.tools.get((server_at(path), name))

    async def waiting(self, count: int = 1) -> list[tuple[Ask, Outlet]]:
        """Give all requests that wait, once there are so many."""
        while True:
            found = [pair for host in self.hosts for pair in host.waiting]
            if len(found) >= count:
                return found
            await anyio.sleep(0.002)


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> int | None:
        """The code of the JSON-RPC error in the body, if there is one."""
        error = self.json.get("error") if self.body else None
        return error["code"] if isinstance(error, dict) else None

    @property
    def events(self) -> list[Any]:
        return [json.loads(line[6:]) for line in self.body.split(b"\n") if line.startswith(b"data: ")]


class Client:
    """One connection. What is asked is sent exactly as it is given, but for the headers that make it acceptable."""

    def __init__(self, stream: SocketStream, port: int) -> None:
        self.stream = stream
        self.port = port
        self.buffer = b""

    def head(self, method: str, path: str, headers: dict[str, str | None]) -> bytes:
        given: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", "Authorization": "Bearer good"}
        if method == "POST":
            given["Content-Type"] = "application/json"
        lower = {name.lower() for name in headers}
        given = {name: value for name, value in given.items() if name.lower() not in lower} | headers
        lines = [f"{name}: {value}\r\n" for name, value in given.items() if value is not None]
        return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")

    async def send(
        self, method: str, path: str = "/mcp", body: bytes | Any = b"", headers: Mapping[str, str | None] | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        more: dict[str, str | None] = dict(headers or {})
        if method == "POST":
            more = {"Content-Type": "application/json", "Accept": BOTH, "Content-Length": str(len(data)), **more}
        await self.stream.send(self.head(method, path, more) + data)

    async def ask(self, *args: Any, **kwargs: Any) -> Response:
        await self.send(*args, **kwargs)
        return await self.response()

    async def response(self) -> Response:
        response = await self.response_head()
        if response.headers.get("transfer-encoding") == "chunked":
            response.body = b"".join([chunk async for chunk in self.chunks()])
        else:
            response.body = await self.read(int(response.headers.get("content-length", "0")))
        return response

    async def response_head(self) -> Response:
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        pairs = [line.split(": ", 1) for line in lines if line]
        return Response(int(first.split(" ")[1]), {name.lower(): value for name, value in pairs})

    async def chunks(self) -> Any:
        while True:
            size = int(await self.until(b"\r\n"), 16)
            chunk = await self.read(size)
            await self.until(b"\r\n")
            if not size:
                return
            yield chunk

    async def event(self) -> Any:
        """Read one event of a stream; None at the stream's end. Comments are skipped."""
        while True:
            size = int(await self.until(b"\r\n"), 16)
            chunk = await self.read(size)
            await self.until(b"\r\n")
            if not size:
                return None
            found = Response(200, {}, chunk).events
            if found:
                assert len(found) == 1, "the tests send one event at a time"
                return found[0]

    async def until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            await self._more()
        found, _, self.buffer = self.buffer.partition(end)
        return found

    async def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self._more()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    async def _more(self) -> None:
        self.buffer += await self.stream.receive()

    async def is_closed(self) -> bool:
        """Wait for the server to close; what it still says is dropped."""
        try:
            while True:
                await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True

    async def initialize(self, path: str = "/mcp", **headers: str | None) -> str:
        """Begin a session and give its id."""
        answer = await self.ask("POST", path, request("initialize", id=0), dict(headers))
        assert answer.status == 200
        return answer.headers["mcp-session-id"]


def request(method: str, params: Any = None, id: Any = 1) -> dict[str, Any]:
    more = {} if params is None else {"params": params}
    return {"jsonrpc": "2.0", "id": id, "method": method, **more}


def modern(method: str, params: dict[str, Any] | None = None, id: Any = 1, **meta: Any) -> dict[str, Any]:
    return request(method, {**(params or {}), "_meta": {**ENVELOPE, **meta}}, id)


def modern_headers(method: str, **more: str | None) -> dict[str, str | None]:
    return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **more}
