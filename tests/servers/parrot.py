"""An MCP server that says exactly what it is told to say, and writes down exactly what it hears.

    parrot.py --heard FILE [--era legacy|modern] [--declares FILE] [--http]

It reads and writes lines, or with `--http` listens at a free port of 127.0.0.1, which it prints, and answers with event
streams. `FILE` of `--heard` gets every message as it came. `FILE` of `--declares` holds, as JSON texts by name, what it
lists and says of itself: see `Parrot.declared`. Nothing here parses what it passes on, so a test sees its own bytes.

Any request is answered with what its `params` (of a tool call and a prompt: the arguments) say:

    say     messages to send before the reply
    result  the result, as JSON text;  error  an error object, likewise
    wait    reply after the next answer to a question of `say`
    then    the result when it is asked again with `inputResponses`
    never   no reply at all

In all of these `$ID` is the id and `$TOKEN` the progress token of the request. What has no such params (a resource, a
completion) is answered with what the notification `parrot/next` said before: `{"method": ..., "result": ...}`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LISTS = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}
SCRIPTED = "tools/call", "prompts/get"
MODERN = "2026-07-28"
COMPLETE = '"resultType":"complete","ttlMs":0,"cacheScope":"private",'

Out = Callable[[str], None]


class Parrot:
    """The server. `declared`: texts by name: `initialize`, `discover`, and pages of each list, by its member."""

    def __init__(self, era: str, declared: dict[str, Any], heard: Path) -> None:
        self.era = era
        self.declared = declared
        self._next: dict[str, dict[str, Any]] = {}
        self._heard = heard.open("ab", buffering=0)
        self._pending: list[tuple[str, str, Out]] = []
        self._answered = threading.Event()
        self._lock = threading.Lock()

    def hear(self, message: bytes, headers: str, out: Out) -> bool:
        """Take one message, and say whether it has been answered for good."""
        with self._lock:
            os.write(self._heard.fileno(), headers.encode() + message.rstrip(b"\r\n") + b"\n")
        said = json.loads(message)
        if "method" not in said:
            for waiting, result, back in self._pending:
                back(f'{{"jsonrpc":"2.0","id":{waiting},"result":{result}}}')
            self._pending.clear()
            self._answered.set()
            return True
        if "id" not in said:
            if said["method"] == "parrot/next":
                self._next[said["params"]["method"]] = said["params"]
            return True
        id = json.dumps(said["id"])
        params = said.get("params") or {}
        token = json.dumps(params.get("_meta", {}).get("progressToken"))

        def spell(text: str) -> str:
            return text.replace("$ID", id).replace("$TOKEN", token)

        script = self._script(said["method"], params)
        for line in script.get("say", ()):
            out(spell(line))
        if "wait" in script:
            self._pending.append((id, script["result"], out))
            return False
        if "error" in script:
            out(f'{{"jsonrpc":"2.0","id":{id},"error":{spell(script["error"])}}}')
        elif "never" not in script:
            out(f'{{"jsonrpc":"2.0","id":{id},"result":{spell(script["result"])}}}')
        return "never" not in script

    def _script(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        modern = self.era == "modern"
        if method in (("server/discover",) if modern else ("initialize",)):
            return {"result": self.declared["discover" if modern else "initialize"]}
        if method in ("initialize", "server/discover"):
            return {"error": '{"code":-32601,"message":"Method not found"}'}
        if method in LISTS:
            pages = self.declared.get(LISTS[method], [f'"{LISTS[method]}":[]'])
            page = int(params.get("cursor") or 0)
            more = f',"nextCursor":"{page + 1}"' if page + 1 < len(pages) else ""
            return {"result": "{" + (COMPLETE if modern else "") + pages[page] + more + "}"}
        if method == "subscriptions/listen":
            meta = '"_meta":{"io.modelcontextprotocol/subscriptionId":$ID}'
            said = (
                '{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":%s,%s}}'
            )
            return {"say": [said % (json.dumps(params["notifications"]), meta)], "never": True}
        given = params.get("arguments") or {} if method in SCRIPTED else params
        if "then" in given and "inputResponses" in params:
            return {"result": given["then"]}
        if "result" in given or "error" in given or "never" in given:
            return given
        return self._next.pop(method, {"result": "{" + (COMPLETE if modern else "").rstrip(",") + "}"})


def over_stdio(parrot: Parrot) -> None:
    def out(line: str) -> None:
        sys.stdout.buffer.write(line.encode("utf-8", "surrogatepass") + b"\n")
        sys.stdout.buffer.flush()

    for line in sys.stdin.buffer:
        if line.strip():
            parrot.hear(line, "", out)


def over_http(parrot: Parrot) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            shown = [f"{name}: {value}" for name, value in self.headers.items() if name.lower().startswith("mcp-")]
            if '"method"' not in body.decode() or b'"id"' not in body:
                parrot.hear(body, "", lambda line: None)
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            if parrot.era == "legacy":
                self.send_header("mcp-session-id", "parrot")
            self.end_headers()

            def out(line: str) -> None:
                data = "".join(f"data: {part}\n" for part in line.split("\n"))
                self.wfile.write(f"event: message\n{data}\n".encode("utf-8", "surrogatepass"))
                self.wfile.flush()

            if not parrot.hear(body, json.dumps(shown) + " ", out):
                self.rfile.read(1)  # until the client goes
            self.close_connection = True

        def do_GET(self) -> None:
            self.send_response(405)
            self.send_header("content-length", "0")
            self.end_headers()

        do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--heard", type=Path, required=True)
    parser.add_argument("--era", choices=["legacy", "modern"], default="legacy")
    parser.add_argument("--declares", type=Path, required=True)
    parser.add_argument("--http", action="store_true")
    args = parser.parse_args()
    parrot = Parrot(args.era, json.loads(args.declares.read_text()), args.heard)
    (over_http if args.http else over_stdio)(parrot)


if __name__ == "__main__":
    main()
