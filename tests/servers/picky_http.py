"""A Streamable HTTP server of the older era that minds `server/discover`. Needs nothing but Python.

drops    closes the connection        hangs    never answers
502      as a proxy would             html     a page, with 200
only     refuses, in words and before it looks at anything else, every revision but those of `KNOWN`
none     refuses the same way, and names none
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KNOWN = ("2025-06-18", "2025-03-26", "2024-11-05")

ANSWERS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "picky", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "quick", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": "legacy"}]},
    "ping": {},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = message.get("method", "")
        with open(sys.argv[2], "a", encoding="utf-8") as log:
            log.write(f"{method}\n")
        offered = message.get("params", {}).get("protocolVersion", self.headers.get("MCP-Protocol-Version"))
        if sys.argv[1] in ("only", "none") and offered not in KNOWN:
            named = f" (supported versions: {', '.join(KNOWN)})" if sys.argv[1] == "only" else ""
            self.answer(400, f"Bad Request: Unsupported protocol version{named}\nsecond line".encode(), "text/plain")
        elif method == "server/discover":
            self.mind(sys.argv[1])
        elif "id" not in message:
            self.answer(202, b"")
        elif method in ANSWERS:
            reply = {"jsonrpc": "2.0", "id": message["id"], "result": ANSWERS[method]}
            self.answer(200, json.dumps(reply).encode())
        else:
            self.answer(400, b"")

    def mind(self, how: str) -> None:
        if how == "drops":
            self.close_connection = True
            self.connection.close()
        elif how == "hangs":
            time.sleep(600)
        elif how == "html":
            self.answer(200, b"<html>", "text/html")
        else:
            self.answer(int(how), b"")

    def do_GET(self) -> None:
        self.answer(405, b"")

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
