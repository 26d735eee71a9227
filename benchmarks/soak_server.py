"""A legacy MCP server of the soak, which keeps an account of what it does and misbehaves when it is told to.

    soak_server.py FOLDER NAME [--busy] [--ping answer|never|unknown|bare] [--changes] [--chatty] [--http [--stream]]

FOLDER/ledger gets a line for each start (`start NAME PID`), session (`open NAME`) and executed call (`call NAME
TOKEN`).
Orders come as JSON datagrams to the socket FOLDER/NAME.ctl:

  {"do": "mute", "pings": N}                     the next N pings are not answered
  {"do": "flood", "how": stderr|notices|noise, "lines": N}
  {"do": "drop", "status": S, "bare": B}         all sessions are forgotten; who names one gets S, and no word if B
  {"do": "cut"}                                  streams of answers under way are broken off
  {"do": "die", "pings": N, "how": reset|S}      the next N pings get no answer but a reset, or that HTTP status
  {"do": "away", "secs": N, "how": closed|hung|S}   its port is closed, says nothing, or answers S to all

`quick {token}` answers at once, `work {token, secs}` after so long, with progress where that was asked for. With
`--busy` nothing else is read meanwhile. With `--http` the address is told on the first line of stdout, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Message = dict[str, Any]
PROGRESS_EVERY_SECS = 0.3
CHANGES_EVERY_SECS = 0.25
CHATS_EVERY_SECS = 0.05


class Ledger:
    """The file all servers append to; one write(2) a line, so that lines stay whole."""

    def __init__(self, folder: str, name: str) -> None:
        self._file = os.open(f"{folder}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._name = name

    def note(self, what: str, detail: object = "") -> None:
        os.write(self._file, f"{what} {self._name} {detail}\n".encode())


class Server:
    """What is the same over both transports."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.ledger = Ledger(given.folder, given.name)
        self.mute = 0
        self.cuts = 0
        self.listed = 0
        self.sessions: set[str] = set()
        self.lost_status, self.lost_bare = 404, False
        self.dying: tuple[int, str] = (0, "")
        self.away = ""
        self.go_away: Callable[[float, str], None] = lambda _secs, _how: None

    def obey(self, flood: Callable[[str, int], None]) -> None:
        """Read orders for ever."""
        path = f"{self.given.folder}/{self.given.name}.ctl"
        if os.path.exists(path):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.bind(path)
            while True:
                order = json.loads(orders.recv(65536))
                match order["do"]:
                    case "mute":
                        self.mute = order["pings"]
                    case "flood":
                        flood(order["how"], order["lines"])
                    case "drop":
                        self.lost_status, self.lost_bare = order["status"], order["bare"]
                        self.sessions.clear()
                    case "cut":
                        self.cuts += 1
                    case "die":
                        self.dying = (order["pings"], order["how"])
                    case "away":
                        self.go_away(order["secs"], order["how"])

    def answer(self, request: Message, say: Callable[[Message], None]) -> Message | None:
        """Return the reply to a request; None for none."""
        params = request.get("params") or {}
        result: Message | None = None
        match request["method"]:
            case "initialize":
                capabilities = {"tools": {"listChanged": True}}
                info = {"name": self.given.name, "version": "1"}
                result = {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
            case "tools/list":
                self.listed += 1
                names = ["quick", "work", *([f"extra{self.listed % 3}"] if self.given.changes else [])]
                result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
            case "ping":
                if self.given.ping == "never":
                    return None
                if self.mute > 0:
                    self.mute -= 1
                    return None
                result = {} if self.given.ping == "answer" else None
            case "tools/call":
                arguments = params.get("arguments") or {}
                self.ledger.note("call", arguments["token"])
                if params["name"] == "work":
                    self.work(float(arguments["secs"]), (params.get("_meta") or {}).get("progressToken"), say)
                result = {"content": [{"type": "text", "text": arguments["token"]}]}
        if result is None:
            return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "Method not found"}}
        return {"jsonrpc": "2.0", "id": request["id"], "result": result}

    @staticmethod
    def work(secs: float, token: object, say: Callable[[Message], None]) -> None:
        until, n = time.monotonic() + secs, 0
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, PROGRESS_EVERY_SECS))
            n += 1
            if token is not None:
                params = {"progressToken": token, "progress": n}
                say({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


def serve_stdio(server: Server) -> None:
    lock = threading.Lock()

    def write(line: bytes) -> None:
        with lock:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()

    def say(message: Message) -> None:
        write(json.dumps(message).encode())

    def flood(how: str, lines: int) -> None:
        for n in range(lines):
            if how == "stderr":
                os.write(2, b"e" * 120 + b" %d\n" % n)
            elif how == "noise":
                write(b"this is not JSON, %d" % n)
            else:
                say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": n}})

    def every(secs: float, do: Callable[[], None]) -> None:
        while True:
            time.sleep(secs)
            do()

    def chat() -> None:
        flood("stderr", 3)
        flood("notices", 3)

    def handle(request: Message) -> None:
        if (reply := server.answer(request, say)) is not None:
            say(reply)

    threading.Thread(target=server.obey, args=(flood,), daemon=True).start()
    changed: Message = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    begun = False
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if not isinstance(request, dict) or "method" not in request:
            continue
        if request["method"] == "notifications/initialized" and not begun:
            begun = True
            if server.given.changes:
                threading.Thread(target=every, args=(CHANGES_EVERY_SECS, lambda: say(changed)), daemon=True).start()
            if server.given.chatty:
                threading.Thread(target=every, args=(CHATS_EVERY_SECS, chat), daemon=True).start()
        if "id" not in request:
            continue
        if request["method"] == "tools/call" and not server.given.busy:
            threading.Thread(target=handle, args=(request,), daemon=True).start()
        else:
            handle(request)


def serve_http(server: Server) -> None:
    class Http(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.troubled(request.get("method")):
                return
            if request.get("method") == "initialize":
                session = uuid.uuid4().hex
                server.sessions.add(session)
                server.ledger.note("open")
                self.reply(server.answer(request, lambda _: None), session)
            elif request.get("method") == "server/discover" and "mcp-session-id" not in self.headers:
                self.head(400)
            elif self.headers["mcp-session-id"] not in server.sessions:
                self.lost()
            elif "id" not in request or "method" not in request:
                self.head(202)
            elif request["method"] == "ping" and server.given.ping == "bare":
                self.head(400)
            elif request["method"] == "tools/call" and server.given.stream:
                self.stream(request)
            elif (reply := server.answer(request, lambda _: None)) is not None:
                self.reply(reply)
            else:
                time.sleep(30)
                self.head(202)

        def stream(self, request: Message) -> None:
            cuts = server.cuts
            self.begin_stream()
            try:
                reply = server.answer(request, lambda message: self.event(message, cuts))
                assert reply is not None
                self.event(reply, cuts)
            except OSError:
                pass

        def troubled(self, method: str | None) -> bool:
            """Answer as somebody who is away, or dies of a ping, if that is the case."""
            how = server.away
            if method == "ping" and server.dying[0] > 0:
                how, server.dying = server.dying[1], (server.dying[0] - 1, server.dying[1])
            if how == "hung":
                while server.away == "hung":
                    time.sleep(0.1)
            if how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how in ("hung", "reset"):
                self.close_connection = True
            elif how:
                self.head(int(how))
            return bool(how)

        def do_GET(self) -> None:
            if self.troubled(None):
                return
            if not server.given.stream:
                self.head(405)
            elif (session := self.headers["mcp-session-id"]) not in server.sessions:
                self.lost()
            else:
                cuts = server.cuts
                self.begin_stream()
                while session in server.sessions and server.cuts == cuts:
                    time.sleep(0.2)

        def lost(self) -> None:
            """Refuse a session that is not known; a 400 says so in the words of the SDKs' examples."""
            told = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
            body = b"" if server.lost_bare else json.dumps({"jsonrpc": "2.0", "error": told, "id": None}).encode()
            self.head(server.lost_status, "application/json" if body else "", body)

        def do_DELETE(self) -> None:
            server.sessions.discard(self.headers["mcp-session-id"] or "")
            self.head(200)

        def begin_stream(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.flush()

        def event(self, message: Message, cuts: int) -> None:
            if server.cuts != cuts:
                raise ConnectionAbortedError
            self.wfile.write(b"data: " + json.dumps(message).encode() + b"\n\n")
            self.wfile.flush()

        def reply(self, message: Message | None, session: str | None = None) -> None:
            self.head(200, "application/json", json.dumps(message).encode(), session)

        def head(self, status: int, kind: str = "", body: bytes = b"", session: str | None = None) -> None:
            self.send_response(status)
            if kind:
                self.send_header("Content-Type", kind)
            if session:
                self.send_header("Mcp-Session-Id", session)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 256

        def process_request(self, request: Any, client_address: Any) -> None:
            opened.add(request)
            super().process_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            opened.discard(request)
            super().shutdown_request(request)

        def handle_error(self, *_: object) -> None:
            """Clients that go away are no news here."""

    opened: set[socket.socket] = set()
    listener = Listener(("127.0.0.1", 0), Http)
    port = listener.server_port

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed
            listener.serve_forever()

    def go_away(secs: float, how: str) -> None:
        nonlocal listener
        if how != "closed":
            server.away = how
            time.sleep(secs)
            server.away = ""
            return
        listener.shutdown()
        listener.server_close()
        for connection in list(opened):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        time.sleep(secs)
        listener = Listener(("127.0.0.1", port), Http)
        threading.Thread(target=serve, daemon=True).start()

    server.go_away = go_away
    threading.Thread(target=serve, daemon=True).start()
    print(json.dumps({"url": f"http://127.0.0.1:{port}/mcp"}), flush=True)
    server.obey(lambda _how, _lines: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("name")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--ping", choices=["answer", "never", "unknown", "bare"], default="answer")
    parser.add_argument("--changes", action="store_true")
    parser.add_argument("--chatty", action="store_true")
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    server = Server(given)
    server.ledger.note("start", os.getpid())
    if given.http:
        serve_http(server)
    else:
        serve_stdio(server)


if __name__ == "__main__":
    main()
