"""Hosts of both eras as they are on the wire: what was sent and what came, byte for byte, and going away at will.

An HTTP host here knows no more of MCP than its envelope. Everything blocks; a test that wants many gives each a thread.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gateway_harness import connect_command, connect_env
from harness import Daemon
from patience import PATIENCE

LEGACY, MODERN = "2025-11-25", "2026-07-28"
BOTH_ERAS = ("legacy", "modern")
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
META = "io.modelcontextprotocol/"
ABLE: dict[str, Any] = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
WITHIN = PATIENCE


@dataclass
class Answer:
    """One whole answer of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Give the reply, whether it came alone or as the last event of a stream."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return list(events(iter(self.body.splitlines())))[-1]
        return json.loads(self.body)


def events(lines: Iterator[bytes]) -> Iterator[Any]:
    """Give the messages of an event stream."""
    data: list[bytes] = []
    for raw in lines:
        line = raw.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield json.loads(b"\n".join(data))
            data = []


def send(url: str, method: str = "POST", body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Send one request, on a connection of its own."""
    where = urlsplit(url)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=WITHIN)
    with contextlib.closing(connection):
        connection.putrequest(method, where.path, skip_host="host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


def gauge(url: str, name: str) -> float:
    """Return what the metrics of a gateway say of one."""
    text = send(f"{url.removesuffix('/mcp')}/metrics", "GET").body.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


class Pending:
    """A request under way: its answer is read as it comes."""

    def __init__(self, connection: http.client.HTTPConnection, id: Any) -> None:
        self.id = id
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def messages(self) -> Iterator[Any]:
        """Give all messages of the answer, as they come; the connection is closed after the last."""
        response = self.response
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                yield from events(iter(response.readline, b""))
            elif body := response.read():
                yield json.loads(body)
        finally:
            self.close()

    def reply(self) -> Any:
        """Give the reply itself, past what comes before it.

        Raises:
            EOFError: the answer ended without one.
        """
        for message in self.messages():
            if message.get("id") == self.id and "method" not in message:
                return message
        raise EOFError(f"no reply to {self.id!r}")

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def vanish(self) -> None:
        """Break the connection off, as a host does that is killed."""
        found = self._connection.sock
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class HttpHost:
    """One host over HTTP. A legacy one has a session once it has begun."""

    def __init__(self, url: str, era: str = "legacy", token: str | None = None, **able: Any) -> None:
        self.url = url
        self.era = era
        self.able = able
        self.session: str | None = None
        self._token = token
        self._ids = itertools.count(1)
        self._connections: list[http.client.HTTPConnection] = []

    def __enter__(self) -> HttpHost:
        if self.era == "legacy":
            self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self.session is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                send(self.url, "DELETE", None, self.headers())
        self.hang_up()

    def hang_up(self) -> None:
        """Close what is open; a session is not ended by that."""
        for connection in self._connections:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # a thread that reads is woken by this, not by close
            connection.close()
        self._connections.clear()

    def headers(self, method: str = "", params: Mapping[str, Any] | None = None) -> dict[str, str]:
        found = dict(JSON)
        if self._token is not None:
            found["authorization"] = f"Bearer {self._token}"
        if self.session is not None:
            found |= {"mcp-session-id": self.session, "mcp-protocol-version": LEGACY}
        if self.era == "modern":
            found |= {"mcp-protocol-version": MODERN, "mcp-method": method}
            name = (params or {}).get("name") or (params or {}).get("uri")
            if name is not None:
                found["mcp-name"] = name
        return found

    def begin(self) -> Any:
        """Initialize, and give the result."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": self.able,
            "clientInfo": {"name": "raw-host", "version": "1"},
        }
        pending = self.start("initialize", params)
        self.session = pending.response.headers["mcp-session-id"]
        reply = pending.reply()
        self.tell("notifications/initialized")
        return reply["result"]

    def start(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        id: Any = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Pending:
        """Send a request and wait for nothing."""
        id = next(self._ids) if id is None else id
        sent = dict(params or {})
        if self.era == "modern":
            sent["_meta"] = {
                f"{META}protocolVersion": MODERN,
                f"{META}clientInfo": {"name": "raw-host", "version": "1"},
                f"{META}clientCapabilities": self.able,
                **(meta or {}),
            }
        elif meta:
            sent["_meta"] = dict(meta)
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": sent}
        return Pending(self._post(message, self.headers(method, params)), id)

    def request(self, method: str, params: Mapping[str, Any] | None = None, id: Any = None) -> Any:
        """Send a request and give the whole reply."""
        return self.start(method, params, id).reply()

    def call(self, tool: str, id: Any = None, **arguments: Any) -> Pending:
        return self.start("tools/call", {"name": tool, "arguments": arguments}, id)

    def text(self, tool: str, id: Any = None, **arguments: Any) -> str:
        """Call a tool and give the text of its first content."""
        reply = self.call(tool, id, **arguments).reply()
        found: str = reply["result"]["content"][0]["text"]
        return found

    def listen(self, **wanted: Any) -> Pending:
        """Open what tells of changes: the standalone stream, or `subscriptions/listen` and its first message."""
        if self.era == "modern":
            return self.start("subscriptions/listen", {"notifications": wanted})
        connection = self._connection()
        connection.request("GET", urlsplit(self.url).path, headers={**self.headers(), "accept": "text/event-stream"})
        return Pending(connection, None)

    def tell(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Send a notification and give the status."""
        message = {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}
        return send(self.url, "POST", json.dumps(message).encode(), self.headers(method)).status

    def answer(self, id: Any, result: Any) -> int:
        """Answer a question and give the status."""
        message = {"jsonrpc": "2.0", "id": id, "result": result}
        return send(self.url, "POST", json.dumps(message).encode(), self.headers()).status

    def call_answering(self, tool: str, answer: Mapping[str, Any], id: Any = None, **arguments: Any) -> tuple[Any, Any]:
        """Call a tool that asks one thing, answer it, and give what was asked and the reply."""
        if self.era == "legacy":
            asked: Any = None
            pending = self.call(tool, id, **arguments)
            for message in pending.messages():
                if "method" not in message:
                    return asked, message
                if "id" in message:
                    asked = message["params"]
                    assert self.answer(message["id"], answer) == 202
            raise EOFError("no reply")
        reply = self.call(tool, id, **arguments).reply()
        result = reply.get("result", {})
        if result.get("resultType") != "input_required":
            return None, reply
        ((key, question),) = result["inputRequests"].items()
        again = {"name": tool, "arguments": arguments, "inputResponses": {key: answer}}
        if "requestState" in result:
            again["requestState"] = result["requestState"]
        return question["params"], self.request("tools/call", again)

    def _connection(self) -> http.client.HTTPConnection:
        where = urlsplit(self.url)
        assert where.hostname is not None
        self._connections = [connection for connection in self._connections if connection.sock is not None]
        self._connections.append(http.client.HTTPConnection(where.hostname, where.port, timeout=WITHIN))
        return self._connections[-1]

    def _post(self, message: Any, headers: Mapping[str, str]) -> http.client.HTTPConnection:
        connection = self._connection()
        connection.request("POST", urlsplit(self.url).path, json.dumps(message).encode(), dict(headers))
        return connection


class PipeHost:
    """One host over `moltis connect`, of either era."""

    def __init__(self, daemon: Daemon, server: str | None = None) -> None:
        self.process = subprocess.Popen(
            connect_command(daemon, server),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=connect_env(daemon),
            cwd=daemon.folder,
            start_new_session=True,
        )

    def __enter__(self) -> PipeHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> Any:
        """Give the next message.

        Raises:
            EOFError: there is none.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def answer(self) -> Any:
        """Return the next answer. Before it a session that has just begun may be told that a list has changed."""
        while "method" in (message := self.read()):
            pass
        return message

    def request(self, method: str, params: Mapping[str, Any], id: Any) -> Any:
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": dict(params)})
        while (message := self.read()).get("id") != id:
            pass
        return message

    def begin(self, **able: Any) -> Any:
        params = {"protocolVersion": LEGACY, "capabilities": able, "clientInfo": {"name": "pipe", "version": "1"}}
        reply = self.request("initialize", params, "begin")
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return reply["result"]
