"""A lean client of HTTP gateways and of a bare stdio server, taking orders on stdin, one JSON object a line.

    {"open": NAME, "how": {...}}                          a target; how: kind, port, path, headers, argv
    {"run": NAME, "callers", "calls", "bytes"}            -> {"seconds": [...], "wall"}; bytes 0 is the echo of 100 B
    {"mix": NAME, "beside": NAME, "callers", "bytes", "secs"}   -> {"seconds"} of small calls beside large ones
    {"tools": NAME}                                       -> {"tools": [...]}

One connection per caller and one call in flight on each. Every answer is checked, by bytes, for its text or its length;
nothing of it is decoded.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any, ClassVar

import httptools
import uvloop

TEXT = "x" * 100
VERSION = "2025-11-25"
PATIENCE_SECS = 60.0


class Http(asyncio.Protocol):
    """One connection that is kept alive, with one request at a time."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, dict[bytes, bytes], bytes]] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the gateway closed the connection"))

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((self.parser.get_status_code(), self.headers, b"".join(self.parts)))

    def post(self, path: str, headers: dict[str, str], body: bytes) -> asyncio.Future[Any]:
        self.answer = asyncio.get_running_loop().create_future()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        return self.answer


class Target:
    """Something that can be called. `call` gives an answer's bytes."""

    def __init__(self, how: dict[str, Any]) -> None:
        self.how = how
        self.headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        self.headers |= how.get("headers", {})
        self.last_id = 100

    async def open(self) -> None:
        """Begin, once."""

    async def connect(self) -> Any:
        _, protocol = await asyncio.get_running_loop().create_connection(Http, "127.0.0.1", self.how["port"])
        return protocol

    def request(self, tool: str, arguments: dict[str, Any]) -> tuple[str, bytes]:
        raise NotImplementedError

    async def call(self, connection: Any, path: str, body: bytes) -> bytes:
        status, _, answer = await connection.post(path, self.headers, body)
        if status != 200:
            raise RuntimeError(f"{status} {answer[:300]!r}")
        return bytes(answer)


class Mcp(Target):
    """Streamable HTTP, with the handshake of 2025-11-25. `prefix` is what stands before a tool's name."""

    async def open(self) -> None:
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
        connection = await self.connect()
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        status, headers, answer = await connection.post(self.how["path"], self.headers, json.dumps(hello).encode())
        if status != 200:
            raise RuntimeError(f"initialize: {status} {answer[:300]!r}")
        self.headers["mcp-protocol-version"] = VERSION
        if b"mcp-session-id" in headers:
            self.headers["mcp-session-id"] = headers[b"mcp-session-id"].decode()
        if connection.lost:
            connection = await self.connect()
        note = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        await connection.post(self.how["path"], self.headers, note)
        connection.transport.close()

    def request(self, tool: str, arguments: dict[str, Any]) -> tuple[str, bytes]:
        self.last_id += 1
        params = {"name": self.how.get("prefix", "") + tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": "tools/call", "params": params}
        return self.how["path"], json.dumps(message).encode()

    async def tools(self) -> list[str]:
        connection = await self.connect()
        ask = b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}'
        _, headers, answer = await connection.post(self.how["path"], self.headers, ask)
        connection.transport.close()
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            answer = next(line[5:] for line in answer.splitlines() if line.startswith(b"data: {"))
        return [tool["name"] for tool in json.loads(answer)["result"]["tools"]]


class Hub(Target):
    """mcp-hub's own way to call a tool."""

    def request(self, tool: str, arguments: dict[str, Any]) -> tuple[str, bytes]:
        call = {"server_name": self.how["server"], "tool": tool, "arguments": arguments}
        return "/api/servers/tools", json.dumps(call).encode()


class OpenApi(Target):
    """mcpo: a path for each tool."""

    def request(self, tool: str, arguments: dict[str, Any]) -> tuple[str, bytes]:
        return f"/{self.how['server']}/{tool}", json.dumps(arguments).encode()


class Pipe(asyncio.SubprocessProtocol):
    """A stdio server; its answers go to whoever waits for that id."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.parts: list[bytes] = []

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.parts.append(data)
        if b"\n" not in data:
            return
        *lines, rest = b"".join(self.parts).split(b"\n")
        self.parts = [rest]
        for line in lines:
            self.waiting.pop(int(line[22 : line.index(b",", 22)])).set_result(line)


class Stdio(Target):
    """A server without anything between."""

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        transport, self.pipe = await loop.subprocess_exec(Pipe, *self.how["argv"], stderr=subprocess.DEVNULL)
        self.stdin: Any = transport.get_pipe_transport(0)
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
        await self.send(1, json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode())

    async def connect(self) -> Any:
        return self

    def request(self, tool: str, arguments: dict[str, Any]) -> tuple[str, bytes]:
        self.last_id += 1
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": "tools/call", "params": params}
        return str(self.last_id), json.dumps(message).encode()

    def send(self, id: int, body: bytes) -> asyncio.Future[bytes]:
        answer = self.pipe.waiting[id] = asyncio.get_running_loop().create_future()
        self.stdin.write(body + b"\n")
        return answer

    async def call(self, connection: Any, path: str, body: bytes) -> bytes:
        return await self.send(int(path), body)


class Client:
    kinds: ClassVar[dict[str, type[Target]]] = {"mcp": Mcp, "hub": Hub, "openapi": OpenApi, "stdio": Stdio}

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if "open" in order:
            target = self.targets[order["open"]] = self.kinds[order["how"]["kind"]](order["how"])
            await target.open()
            return {}
        if "tools" in order:
            target = self.targets[order["tools"]]
            assert isinstance(target, Mcp)
            return {"tools": await target.tools()}
        if "mix" in order:
            return {"seconds": await self.mix(order)}
        target = self.targets[order["run"]]
        began = time.perf_counter()
        each = order["calls"] // order["callers"]
        found = await asyncio.gather(*(caller(target, each, order["bytes"]) for _ in range(order["callers"])))
        return {"seconds": [s for one in found for s in one], "wall": time.perf_counter() - began}

    async def mix(self, order: dict[str, Any]) -> list[float]:
        small, large = self.targets[order["mix"]], self.targets[order["beside"]]
        until = time.perf_counter() + order["secs"]
        beside = [asyncio.create_task(caller(large, 1 << 30, order["bytes"], until)) for _ in range(order["callers"])]
        await asyncio.sleep(0.1)
        seconds = await caller(small, 1 << 30, 0, until)
        await asyncio.gather(*beside)
        return seconds


async def caller(target: Target, calls: int, size: int, until: float = float("inf")) -> list[float]:
    connection = await target.connect()
    seconds: list[float] = []
    arguments: dict[str, Any] = {"bytes": size} if size else {"message": TEXT}
    while len(seconds) < calls and time.perf_counter() < until:
        if getattr(connection, "lost", False):
            connection = await target.connect()
        path, body = target.request("big" if size else "echo", arguments)
        began = time.perf_counter()
        answer = await target.call(connection, path, body)
        seconds.append(time.perf_counter() - began)
        if len(answer) < size or (not size and TEXT.encode() not in answer) or b'"isError":true' in answer[-200:]:
            raise RuntimeError(f"a wrong answer: {answer[:300]!r}")
    if connection is not target:
        connection.transport.close()
    return seconds


async def main() -> None:
    client = Client()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            async with asyncio.timeout(PATIENCE_SECS):
                answer = await client.obey(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


uvloop.run(main())
