"""An MCP server over Streamable HTTP with a mode or a tool per fault. Standard library only; both protocol eras.

    evil_http.py [--port N] [--mode NAME[=VALUE]]... [--events FILE] [--mark TEXT]

Prints one line of JSON, {"url"}, when it listens. Modes combine; without any it is plain and well-behaved.

  eras        legacy (answers server/discover with 400)  modern (knows no initialize)
              old-sse (HTTP+SSE of 2024-11-05 only: POST to /mcp is 405, GET opens the stream)
  sessions    forget=N (every session is forgotten after N tool calls, and its requests are answered 404)
              lost=STATUS[:TEXT] (or so, with a JSON-RPC error of that text under no id)
              ping=STATUS (it knows no `ping`, and answers it so)
  streams     drop=SECS (every GET stream ends so soon, with `retry: 100`; so does the stream of HTTP+SSE)
              no-get (GET is 405)  get=STATUS (or that)
  refusals    locked=PATH (while that file is there every request to it is answered 401, without a word on how to log
              in, and all else 404; a POST to /register as the file says, if it says anything)
              busy=STATUS:RETRY_AFTER:N (the first N requests are refused so; an empty RETRY_AFTER sends none)
              login-page (every answer is an HTML page)  redirect=STATUS:URL
  headers     need=NAME:VALUE (other requests are answered 403)

Tools: `TOOLS`. A tool that floods does so until the peer hangs up. To `--events` one JSON object a line is appended:
every request with all its headers and its target, every tool that ran, every flood that was hung up on.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

TOOLS = {
    "echo": {"message": "string"},  # gives `message` back
    "slow": {"secs": "number"},  # answers later
    "later": {
        "secs": "number"
    },  # ends the stream of the call at once; the answer is on the one that resumes it, by then
    "count": {},  # adds one, and tells it
    "endless_json": {},  # a JSON body without end
    "gzip_bomb": {},  # 1 GiB of zeros, as 1 MiB of gzip
    "endless_line": {},  # an event stream whose first line never ends
    "endless_events": {},  # an event stream of comments and notifications that never answers
    "endless_headers": {},  # a header that never ends
    "reset": {},  # the connection is reset in the middle of the body
    "truncate": {},  # the body is shorter than it was said to be
    "drip": {"secs": "number"},  # the body comes a byte at a time, so long
    "html": {},  # 200 with a page
    "busy": {"status": "integer", "retry_after": "string"},  # is refused once so, then answered
    "refuse": {"status": "integer"},  # is always refused so
    "silent": {},  # never answers
    "expired": {"status": "integer", "message": "string"},  # is run, and then refused in these words
    "cut": {},  # a JSON body without its end, whose length is right
}
CHUNK = 1 << 16
KNOWN_VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"


class World:
    """What the server remembers between requests."""

    def __init__(self, argv: list[str]) -> None:
        self.modes: dict[str, str] = {}
        self.events: int | None = None
        self.port = 0
        words = iter(argv)
        for word in words:
            value = next(words, "")
            if word == "--mode":
                mode, _, setting = value.partition("=")
                self.modes[mode] = setting
            elif word == "--events":
                self.events = os.open(value, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            elif word == "--port":
                self.port = int(value)
            elif word != "--mark":
                sys.exit(f"evil_http: unknown option {word}")
        self.lock = threading.Lock()
        self.sessions: dict[str, int] = {}
        self.counted = 0
        self.refused = 0
        self.refused_tools: set[str] = set()
        self.answers: dict[str, tuple[float, bytes]] = {}  # by event id: when it is ready, and the message
        self.streams: dict[str, Callable[[bytes], None]] = {}  # of HTTP+SSE, by session

    def tell(self, event: str, **facts: object) -> None:
        if self.events is not None:
            line = json.dumps({"at": time.time(), "event": event, **facts})
            os.write(self.events, line.encode() + b"\n")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    world: World

    def log_message(self, *_: object) -> None:
        pass

    # -- HTTP

    def do_GET(self) -> None:
        self.tell()
        if self.turned_away():
            return
        if "old-sse" in self.world.modes:
            self.old_stream()
        elif "get" in self.world.modes:
            self.plain(int(self.world.modes["get"]), **{"WWW-Authenticate": "Bearer"})
        elif "no-get" in self.world.modes or "modern" in self.world.modes:
            self.plain(405)
        elif self.headers["Mcp-Session-Id"] not in self.world.sessions:
            self.plain(404)
        else:
            self.stream(self.headers["Last-Event-ID"])

    def do_DELETE(self) -> None:
        self.tell()
        self.world.sessions.pop(self.headers["Mcp-Session-Id"] or "", None)
        self.plain(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        message = json.loads(body)
        self.tell(message)
        if self.turned_away():
            return
        if "old-sse" in self.world.modes:
            self.old_post(message)
            return
        method = message.get("method")
        session = self.headers["Mcp-Session-Id"]
        if self.headers["MCP-Protocol-Version"] == MODERN:
            if "legacy" in self.world.modes:
                self.plain(400)
                return
        elif method == "initialize":
            if "modern" in self.world.modes:
                self.plain(400)
                return
        elif session not in self.world.sessions:
            if session:
                self.lost()
            else:
                self.plain(400)
            return
        if "id" not in message or "method" not in message:
            self.plain(202)
            return
        if method == "tools/call":
            self.call(message, session)
            return
        if method == "ping" and "ping" in self.world.modes:
            self.plain(int(self.world.modes["ping"]))
            return
        headers = {}
        if method == "initialize":
            headers["Mcp-Session-Id"] = uuid.uuid4().hex
            self.world.sessions[headers["Mcp-Session-Id"]] = 0
        self.json(self.reply(message), **headers)

    def tell(self, message: dict[str, Any] | None = None) -> None:
        facts: dict[str, Any] = {"method": self.command, "target": self.path, "headers": dict(self.headers)}
        if message is not None:
            facts["mcp"] = message.get("method", "")
        self.world.tell("request", **facts)

    def turned_away(self) -> bool:
        """Answer as a mode says instead of as a server; say whether that was done."""
        modes = self.world.modes
        if "need" in modes:
            name, _, value = modes["need"].partition(":")
            if self.headers[name] != value:
                self.plain(403)
                return True
        if os.path.exists(modes.get("locked", "")):
            with open(modes["locked"], encoding="ascii") as file:
                register = int(file.read() or "404")
            self.plain({"/mcp": 401, "/register": register}.get(self.path, 404))
            return True
        if "busy" in modes:
            status, after, times = modes["busy"].rsplit(":", 2)
            with self.world.lock:
                self.world.refused += 1
                refused = self.world.refused <= int(times)
            if refused:
                self.plain(int(status), **({"Retry-After": after} if after else {}))
                return True
        if "login-page" in modes:
            self.page()
            return True
        if "redirect" in modes:
            status, _, url = modes["redirect"].partition(":")
            self.plain(int(status), Location=url)
            return True
        return False

    def plain(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def text(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def lost(self) -> None:
        status, _, text = self.world.modes.get("lost", "404").partition(":")
        if text:
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": text}}
            self.text(int(status), "application/json", json.dumps(error).encode())
        else:
            self.plain(int(status))

    def page(self) -> None:
        page = b"<html><body>please <b>log in</b>, token=sk-page-secret</body></html>"
        self.start("text/html", **{"Content-Length": str(len(page))})
        self.wfile.write(page)

    def json(self, message: dict[str, Any], **headers: str) -> None:
        body = json.dumps(message).encode()
        self.start("application/json", **{"Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def start(self, kind: str, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    # -- MCP

    def reply(self, message: dict[str, Any]) -> dict[str, Any]:
        modern = self.headers["MCP-Protocol-Version"] == MODERN
        return {"jsonrpc": "2.0", "id": message["id"], **answer(message, modern=modern)}

    def call(self, message: dict[str, Any], session: str | None) -> None:
        name = message["params"]["name"]
        arguments = message["params"].get("arguments") or {}
        if "forget" in self.world.modes and session:
            self.world.sessions[session] += 1
            if self.world.sessions[session] > int(self.world.modes["forget"]):
                del self.world.sessions[session]
                self.lost()
                return
        if name == "busy" and self.refused_once(arguments):
            return
        if name == "refuse":
            self.plain(int(arguments["status"]))
            return
        self.world.tell("ran", tool=name, arguments=arguments)
        action = getattr(self, f"tool_{name}", None)
        try:
            if action:
                action(message, arguments)
            else:
                self.json(self.result(message, arguments))
        except OSError:
            self.world.tell("hung up", tool=name)
            self.close_connection = True

    def refused_once(self, arguments: dict[str, Any]) -> bool:
        key = json.dumps(arguments)
        if key in self.world.refused_tools:
            return False
        self.world.refused_tools.add(key)
        after = arguments.get("retry_after")
        self.plain(int(arguments["status"]), **({"Retry-After": after} if after else {}))
        return True

    def result(self, message: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        name = message["params"]["name"]
        text = str(arguments.get("message", "done"))
        if name == "count":
            with self.world.lock:
                self.world.counted += 1
                text = str(self.world.counted)
        result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
        if self.headers["MCP-Protocol-Version"] == MODERN:
            result["resultType"] = "complete"
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def tool_slow(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        time.sleep(float(arguments["secs"]))
        self.json(self.result(message, arguments))

    def tool_silent(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.rfile.read(1)

    def tool_expired(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.text(int(arguments["status"]), "text/plain", arguments["message"].encode())

    def tool_cut(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.text(200, "application/json", json.dumps(self.result(message, arguments)).encode()[:-12])

    def tool_html(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.page()

    def tool_later(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        """End the stream before the answer is there: whoever resumes it by its last event's id gets that."""
        event = f"call-{uuid.uuid4().hex}"
        self.world.answers[event] = (
            time.monotonic() + float(arguments["secs"]),
            json.dumps(self.result(message, arguments)).encode(),
        )
        self.start("text/event-stream")
        self.chunk(b"id: %b\nretry: 100\ndata: \n\n" % event.encode())
        self.wfile.write(b"0\r\n\r\n")

    def tool_endless_json(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.start("application/json")
        self.chunk(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % message["id"])
        while True:
            self.chunk(b"x" * CHUNK)

    def tool_gzip_bomb(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.start("application/json", **{"Content-Encoding": "gzip"})
        for data in bomb():
            self.chunk(data)
        self.wfile.write(b"0\r\n\r\n")

    def tool_endless_line(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.start("text/event-stream")
        self.chunk(b"data: ")
        while True:
            self.chunk(b"x" * CHUNK)

    def tool_endless_events(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.start("text/event-stream")
        note = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "y" * 1000}})
        while True:
            self.chunk(b": " + b"z" * 1000 + b"\n\ndata: " + note.encode() + b"\n\n")

    def tool_endless_headers(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        while True:
            self.wfile.write(b"x" * CHUNK)

    def tool_reset(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.start("application/json", **{"Content-Length": "1000"})
        self.wfile.write(b'{"jsonrpc":')
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def tool_truncate(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        self.start("application/json", **{"Content-Length": "1000"})
        self.wfile.write(b'{"jsonrpc":')
        self.close_connection = True

    def tool_drip(self, message: dict[str, Any], arguments: dict[str, Any]) -> None:
        body = json.dumps(self.result(message, arguments)).encode()
        self.start("application/json", **{"Content-Length": str(len(body))})
        for n in range(len(body)):
            self.wfile.write(body[n : n + 1])
            self.wfile.flush()
            time.sleep(float(arguments["secs"]) / len(body))

    # -- the GET stream

    def stream(self, last: str | None) -> None:
        """The GET stream; with the id of an event of a call, that call's answer once it is ready."""
        ends = time.monotonic() + float(self.world.modes.get("drop", "3600"))
        self.start("text/event-stream")
        try:
            self.chunk(b"id: %b\nretry: 100\ndata: \n\n" % (last or f"get-{uuid.uuid4().hex}").encode())
            while time.monotonic() < ends:
                ready, result = self.world.answers.get(last or "", (float("inf"), b""))
                if time.monotonic() >= ready:
                    del self.world.answers[last or ""]
                    self.chunk(b"id: %b-done\ndata: %b\n\n" % ((last or "").encode(), result))
                    break
                time.sleep(0.02)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    # -- HTTP+SSE of 2024-11-05

    def old_stream(self) -> None:
        session = uuid.uuid4().hex
        over = threading.Event()
        lock = threading.Lock()

        def push(data: bytes) -> None:
            with lock:
                try:
                    self.chunk(data)
                except OSError:
                    over.set()

        self.world.streams[session] = push
        self.start("text/event-stream")
        push(b"event: endpoint\ndata: /messages?session=%b\n\n" % session.encode())
        ends = float(self.world.modes.get("drop", "3600"))
        over.wait(ends)
        del self.world.streams[session]
        self.close_connection = True

    def old_post(self, message: dict[str, Any]) -> None:
        push = self.world.streams.get(self.path.partition("session=")[2])
        if push is None:
            self.plain(405)
            return
        self.plain(202)
        if "id" not in message or "method" not in message:
            return
        if message["method"] == "tools/call":
            name, arguments = message["params"]["name"], message["params"].get("arguments") or {}
            self.world.tell("ran", tool=name, arguments=arguments)
            if name == "slow":
                time.sleep(float(arguments["secs"]))
            reply = self.result(message, arguments)
        else:
            reply = self.reply(message)
        push(b"event: message\ndata: " + json.dumps(reply).encode() + b"\n\n")


def answer(message: dict[str, Any], *, modern: bool) -> dict[str, Any]:
    """Give `result` or `error` for everything but tool calls."""
    method, params = message["method"], message.get("params") or {}
    about = {"capabilities": {"tools": {"listChanged": True}}, "serverInfo": {"name": "evil-http", "version": "1"}}
    if method == "initialize":
        asked = params["protocolVersion"]
        return {"result": {"protocolVersion": asked if asked in KNOWN_VERSIONS else KNOWN_VERSIONS[-1], **about}}
    if method == "server/discover" and modern:
        result: dict[str, Any] = {"supportedVersions": [MODERN], **about}
    elif method == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": schema(keys)} for name, keys in TOOLS.items()]}
    elif method == "ping" and not modern:
        result = {}
    else:
        return {"error": {"code": -32601, "message": f"no {method} here"}}
    return {"result": {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **result} if modern else result}


def schema(keys: dict[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in keys.items()}}


def bomb() -> Iterator[bytes]:
    """Give 1 GiB of zeros as gzip, in pieces."""
    piece = gzip.compress(bytes(16 << 20), 9)
    for _ in range(64):
        yield piece


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Stay quiet when a peer is gone: that is what the tests are about."""


def main(argv: list[str]) -> None:
    Handler.world = World(argv)
    server = Server(("127.0.0.1", Handler.world.port), Handler)
    path = "/sse" if "old-sse" in Handler.world.modes else "/mcp"
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}{path}"}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
