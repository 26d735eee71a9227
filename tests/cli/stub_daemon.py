"""A daemon process that a test can kill: `mcp.connect`, and an MCP host's stream behind it, to a script's liking.

    python stub_daemon.py SOCKET RECORD

Every line that a host sends is appended to RECORD, as JSON `[connection, line]`. It answers `initialize`, `echo` (with
its params), `big` (with `params.size` characters), `half` (with half a line, and dies), `ask` (asks `roots/list`
first, with an id of its own from 1, and answers with the answer), `die` (it ends without an answer), `leave` (as a
daemon that is stopping: ends listens in order, refuses this one unsent and ends; with the next daemon it is answered);
never `wait`. `subscriptions/listen` with params is acknowledged.
`mcp.connect` of the server `nobody` is refused, of `full` is refused once.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import Any

full = {"times": 1}
listens: list[Any] = []
left = sys.argv[2] + ".left"


def main() -> None:
    path, record = sys.argv[1:3]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    print("ready", flush=True)
    number = 0
    while True:
        peer, _ = listener.accept()
        number += 1
        threading.Thread(target=serve, args=(peer, number, record), daemon=True).start()


def serve(peer: socket.socket, number: int, record: str) -> None:
    lines = peer.makefile("rb")
    request = json.loads(lines.readline())
    assert request["method"] == "mcp.connect"
    error = refusal(request["params"].get("server"))
    if error is not None:
        send(peer, {"jsonrpc": "2.0", "id": request["id"], "error": error})
        return
    send(peer, {"jsonrpc": "2.0", "id": request["id"], "result": {"ok": True}})
    asked: dict[int, Any] = {}
    with open(record, "ab", buffering=0) as out:
        for line in lines:
            out.write(json.dumps([number, line.decode()]).encode() + b"\n")
            try:
                message = json.loads(line)
            except ValueError:
                send(peer, {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "not JSON"}})
                continue
            if "method" in message and "id" in message:
                answer(peer, message, asked)
            elif "id" in message:
                reply(peer, asked.pop(message["id"]), message["result"])


def answer(peer: socket.socket, message: dict[str, Any], asked: dict[int, Any]) -> None:
    method, params = message["method"], message.get("params", {})
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "resources": {}}
        reply(peer, message["id"], {"protocolVersion": "2025-11-25", "capabilities": capabilities})
    elif method == "big":
        reply(peer, message["id"], "x" * params["size"])
    elif method == "half":
        peer.sendall(b'{"jsonrpc":"2.0","id":%d,"result":{"half' % message["id"])
        os._exit(1)
    elif method == "die":
        os._exit(1)
    elif method == "ask":
        asked[len(asked) + 1] = message["id"]
        send(peer, {"jsonrpc": "2.0", "id": len(asked), "method": "roots/list"})
    elif method == "subscriptions/listen" and params:
        listens.append(message["id"])
        told = {"_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]}}
        send(peer, {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": told})
    elif method == "leave" and listens and not os.path.exists(left):
        open(left, "w").close()
        for id in listens:
            reply(peer, id, {"resultType": "complete"})
        data = {"kind": "not_ready", "server": None, "sent": False}
        send(peer, {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32005, "message": "bye", "data": data}})
        os._exit(0)
    elif method == "leave":
        reply(peer, message["id"], {"again": True})
    elif method not in ("wait", "subscriptions/listen"):
        reply(peer, message["id"], params)


def refusal(server: str | None) -> dict[str, Any] | None:
    if server == "nobody":
        return {"code": -32004, "message": "no server is called 'nobody'", "data": {"kind": "unknown_server"}}
    if server == "full" and full["times"]:
        full["times"] -= 1
        return {"code": -32603, "message": "all connections are busy", "data": {"kind": "busy"}}
    return None


def reply(peer: socket.socket, id: Any, result: Any) -> None:
    send(peer, {"jsonrpc": "2.0", "id": id, "result": result})


def send(peer: socket.socket, message: dict[str, Any]) -> None:
    peer.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")


main()
