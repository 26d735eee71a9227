"""An MCP server that does one thing at a time: while it works or waits for an answer, it reads nothing else.

    busy_server.py [--no-ping] [--http ANSWER] [--mark TEXT]

Over stdio, or with `--http` over Streamable HTTP on a port of its own, told on the first line of stdout as JSON; there
a `ping` is answered with ANSWER: `empty` (an event stream without events), `open` (one that stays open) or a status.

  work {secs, says}   works so long; says meanwhile: nothing, progress, log, stderr or noise (no JSON, on stdout)
  ask {}              asks the host by elicitation and reads until that is answered
  quick {}            answers at once

`prompts/get` and `resources/read` work as long as their name, or the end of their URI, says.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EVERY_SECS = 0.1


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def sign(kind: str, token: object, n: int) -> None:
    match kind:
        case "progress":
            say({"method": "notifications/progress", "params": {"progressToken": token, "progress": n}})
        case "log":
            say({"method": "notifications/message", "params": {"level": "info", "data": n}})
        case "stderr":
            print(f"step {n}", file=sys.stderr, flush=True)
        case "noise":
            print(f"step {n}", flush=True)


def work(secs: float, kind: str = "nothing", token: object = None) -> None:
    until, n = time.monotonic() + secs, 0
    while (left := until - time.monotonic()) > 0:
        sign(kind, token, n := n + 1)
        time.sleep(min(left, EVERY_SECS))


def ask(lines: Iterator[str]) -> str:
    params = {"message": "Go on?", "requestedSchema": {"type": "object", "properties": {}}}
    say({"id": "question", "method": "elicitation/create", "params": params})
    for line in lines:
        answer = json.loads(line)
        if answer.get("id") == "question":
            return json.dumps(answer.get("result", answer.get("error")))
    sys.exit(0)


def handle(request: dict[str, Any], lines: Iterator[str]) -> dict[str, Any] | None:
    """Return the result of a request; None for no answer."""
    params = request.get("params", {})
    match request["method"]:
        case "initialize":
            capabilities: dict[str, Any] = {"tools": {}, "prompts": {}, "resources": {}}
            info = {"name": "busy", "version": "1"}
            return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
        case "ping":
            return None if "--no-ping" in sys.argv else {}
        case "tools/list":
            return {"tools": [{"name": n, "inputSchema": {"type": "object"}} for n in ("work", "ask", "quick")]}
        case "prompts/list":
            return {"prompts": []}
        case "resources/list":
            return {"resources": []}
        case "prompts/get":
            work(float(params["name"]))
            return {"messages": []}
        case "resources/read":
            work(float(params["uri"].rpartition("/")[2]))
            return {"contents": []}
        case "tools/call":
            text, arguments = "done", params.get("arguments", {})
            if params["name"] == "work":
                work(arguments["secs"], arguments.get("says", "nothing"), params.get("_meta", {}).get("progressToken"))
            elif params["name"] == "ask":
                text = ask(lines)
            return {"content": [{"type": "text", "text": text}]}
    return {}


def serve_stdio() -> None:
    lines = iter(sys.stdin.readline, "")
    for line in lines:
        request = json.loads(line)
        if "id" not in request or "method" not in request:
            continue
        result = handle(request, lines)
        if result is not None:
            say({"id": request["id"], "result": result})


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = ""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "id" not in request:
            self.head(202)
        elif request["method"] == "ping":
            self.ping()
        elif (result := handle(request, iter(()))) is not None and request["method"] != "server/discover":
            body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
            self.head(200, "application/json", body)
        else:
            self.head(400)

    def ping(self) -> None:
        if self.answer == "empty":
            self.head(200, "text/event-stream")
        elif self.answer == "open":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.flush()
            time.sleep(60)
        else:
            self.head(int(self.answer))

    def do_GET(self) -> None:
        self.head(405)

    do_DELETE = do_GET

    def head(self, status: int, kind: str = "", body: bytes = b"") -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve_http(answer: str) -> None:
    Http.answer = answer
    server = ThreadingHTTPServer(("127.0.0.1", 0), Http)
    server.daemon_threads = True
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/mcp"}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if "--http" in sys.argv:
        serve_http(sys.argv[sys.argv.index("--http") + 1])
    else:
        serve_stdio()
