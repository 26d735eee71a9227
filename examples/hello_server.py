"""A small MCP server over stdio, in plain Python: three tools, a resource and a prompt.

It speaks the protocol revisions that begin with `initialize` (2024-11-05 to 2025-11-25). Try it by hand:

    echo '{"jsonrpc": "2.0", "id": 1, "method": "ping"}' | python3 hello_server.py

stdin and stdout carry JSON-RPC, one message a line; stderr is for people, and moltis writes it to its log.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

VERSIONS = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

Params = dict[str, Any]


class RpcError(Exception):
    """Becomes the error of a JSON-RPC response."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# What this server offers


def text_argument(name: str, description: str) -> Params:
    return {"type": "object", "properties": {name: {"type": "string", "description": description}}, "required": [name]}


TOOLS = [
    {"name": "hello", "description": "Says hello", "inputSchema": text_argument("name", "Name to greet")},
    {"name": "echo", "description": "Says the same again", "inputSchema": text_argument("text", "What to say")},
    {
        "name": "sleep",
        "description": "Waits, and reports progress ten times a second",
        "inputSchema": {
            "type": "object",
            "properties": {"seconds": {"type": "number", "minimum": 0, "maximum": 3600}},
            "required": ["seconds"],
        },
    },
]
GREETING = {"uri": "hello://greeting", "name": "greeting", "description": "A greeting", "mimeType": "text/plain"}
INTRODUCE = {
    "name": "introduce",
    "description": "Asks for an introduction",
    "arguments": [{"name": "name", "description": "Who is introduced", "required": True}],
}


def hello(arguments: Params, _: Call) -> str:
    return f"Hello, {arguments['name']}!"


def echo(arguments: Params, _: Call) -> str:
    return str(arguments["text"])


def sleep(arguments: Params, call: Call) -> str:
    seconds = float(arguments["seconds"])
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        call.report_progress(seconds - left, seconds)
        if call.cancelled.wait(min(0.1, left)):
            return "cancelled"
    return f"slept {seconds:g} s"


RUN: dict[str, Callable[[Params, Call], str]] = {"hello": hello, "echo": echo, "sleep": sleep}


# The methods of MCP


def initialize(params: Params, _: Call) -> Params:
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}, "resources": {}, "prompts": {}},
        "serverInfo": {"name": "hello", "version": "1.0.0"},
    }


def call_tool(params: Params, call: Call) -> Params:
    run = RUN.get(params.get("name", ""))
    if run is None:
        raise RpcError(INVALID_PARAMS, f"unknown tool: {params.get('name')}")
    try:
        text, is_error = run(params.get("arguments") or {}, call), False
    except (KeyError, TypeError, ValueError) as error:
        # What a model can correct is a result, not an error of the protocol.
        text, is_error = f"wrong arguments: {error!r}", True
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


def read_resource(params: Params, _: Call) -> Params:
    if params.get("uri") != GREETING["uri"]:
        raise RpcError(INVALID_PARAMS, f"unknown resource: {params.get('uri')}")
    return {"contents": [{"uri": GREETING["uri"], "mimeType": "text/plain", "text": "Hello!"}]}


def get_prompt(params: Params, _: Call) -> Params:
    name = (params.get("arguments") or {}).get("name")
    if params.get("name") != INTRODUCE["name"] or not name:
        raise RpcError(INVALID_PARAMS, "the only prompt is introduce, and its argument is name")
    text = f"Please introduce {name} in one sentence."
    return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}


METHODS: dict[str, Callable[[Params, Call], Params]] = {
    "initialize": initialize,
    "ping": lambda params, call: {},
    "tools/list": lambda params, call: {"tools": TOOLS},
    "tools/call": call_tool,
    "resources/list": lambda params, call: {"resources": [GREETING]},
    "resources/templates/list": lambda params, call: {"resourceTemplates": []},
    "resources/read": read_resource,
    "prompts/list": lambda params, call: {"prompts": [INTRODUCE]},
    "prompts/get": get_prompt,
}


# JSON-RPC over stdio

write_lock = threading.Lock()
running: dict[Any, Call] = {}


class Call:
    """A request that is being answered, on a thread of its own: a slow tool holds up nobody."""

    def __init__(self, request: Params) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self.thread = threading.Thread(target=self.answer, daemon=True)

    def answer(self) -> None:
        response: Params = {"jsonrpc": "2.0", "id": self.request["id"]}
        method = METHODS.get(self.request["method"])
        try:
            if method is None:
                raise RpcError(METHOD_NOT_FOUND, f"unknown method: {self.request['method']}")
            response["result"] = method(self.request.get("params") or {}, self)
        except RpcError as error:
            response["error"] = {"code": error.code, "message": str(error)}
        if not self.cancelled.is_set():
            send(response)
        running.pop(self.request["id"], None)

    def report_progress(self, progress: float, total: float) -> None:
        token = ((self.request.get("params") or {}).get("_meta") or {}).get("progressToken")
        if token is not None:
            params = {"progressToken": token, "progress": progress, "total": total}
            send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


def send(message: Params) -> None:
    with write_lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def receive(message: Params) -> None:
    if "id" in message and "method" in message:
        call = running[message["id"]] = Call(message)
        call.thread.start()
    elif message.get("method") == "notifications/cancelled":
        cancelled = running.get(message["params"]["requestId"])
        if cancelled is not None:
            cancelled.cancelled.set()


def main() -> None:
    print("hello: ready", file=sys.stderr)
    for line in sys.stdin.buffer:
        try:
            receive(json.loads(line))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            print(f"hello: not a message: {error!r}", file=sys.stderr)
    # stdin is at its end: no more requests. What is nearly done may still be answered.
    end = time.monotonic() + 0.5
    for call in list(running.values()):
        call.thread.join(max(0.0, end - time.monotonic()))


if __name__ == "__main__":
    main()
