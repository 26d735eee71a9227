"""A stdio MCP server of the handshake era that says exactly what it is told to. Standard library only.

    mouthpiece.py [--mark TEXT]

  say     lines, times: writes each line as it is (bytes as latin-1), so many times, then answers
  wait    lines: writes each line, and never answers
  flood   line, secs: answers at once, and writes the line over and over for so long
  heard   what it was sent, but for `heard` itself: params and all

In a line, `@ID@` is the id of the call that it belongs to.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TOOLS = ("say", "wait", "flood", "heard")
CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "logging": {},
}


class Server:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def answer(self, id: object, result: object) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n")

    def say(self, id: object, lines: list[str], times: int = 1) -> None:
        said = [line.replace("@ID@", json.dumps(id)).encode("latin-1") + b"\n" for line in lines]
        for _ in range(times):
            self.write(b"".join(said))

    def call(self, id: object, name: str, given: dict[str, Any]) -> None:
        if name == "flood":
            self.answer(id, {"content": []})
            until = time.monotonic() + given["secs"]
            while time.monotonic() < until:
                self.say(id, [given["line"]], 50)
            return
        if name in ("say", "wait"):
            self.say(id, given["lines"], given.get("times", 1))
        if name != "wait":
            text = json.dumps(self.heard) if name == "heard" else "done"
            self.answer(id, {"content": [{"type": "text", "text": text}]})

    def take(self, message: dict[str, Any]) -> None:
        id, method, params = message.get("id"), message.get("method"), message.get("params") or {}
        if method == "initialize":
            info = {"name": "mouthpiece", "version": "1"}
            version = params["protocolVersion"]
            self.answer(id, {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": info})
        elif method == "tools/list":
            self.answer(id, {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]})
        elif method == "resources/list":
            self.answer(id, {"resources": [{"uri": "mouth://one", "name": "one"}]})
        elif method == "resources/templates/list":
            self.answer(id, {"resourceTemplates": []})
        elif method == "tools/call":
            if params["name"] != "heard":
                self.heard.append(message)
            self.call(id, params["name"], params.get("arguments") or {})
        else:
            if method != "ping":
                self.heard.append(message)
            if id is not None and method is not None:
                self.answer(id, {})


def main() -> None:
    server = Server()
    for line in sys.stdin.buffer:
        server.take(json.loads(line))


if __name__ == "__main__":
    main()
