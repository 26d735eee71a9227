"""An MCP server that answers each call of a tool with JSON that is made to take long. Standard library only.

    shaper.py [--http] [--mark TEXT]

It reads and writes lines; with `--http` it listens at a free port of 127.0.0.1, which it prints. A call's arguments
name the `shape` (`shapes.SHAPES`), how many bytes of it (`size`), and the `frame` around it. Without a shape the answer
is short, and the arguments are not looked at: `swallow` takes whatever there is.
"""

from __future__ import annotations

import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shapes import SHAPES

MIB = 1024 * 1024
REPLY = b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"structuredContent":{"a":@}}}'
FRAMES = {
    "reply": [REPLY],
    "text": [b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":@}]}}'],
    "bare result": [b'{"jsonrpc":"2.0","id":@ID@,"result":@}'],
    "structured": [b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"structuredContent":@}}'],
    "content": [b'{"jsonrpc":"2.0","id":@ID@,"result":{"isError":true,"content":@}}'],
    "links": [
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"resultType":"complete","content":[{"type":"resource_link"}],"a":@}}'
    ],
    "id at the end": [b'{"result":{"content":[],"a":@},"jsonrpc":"2.0","id":@ID@}'],
    "id in between": [b'{"jsonrpc":"2.0","a":@,"id":@ID@,"result":{"content":[]},"b":@}'],
    "error": [b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32000,"message":"no","data":@}}'],
    "pages": [b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32042,"message":"no","data":{"elicitations":@}}}'],
    "message": [b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32000,"message":@}}'],
    "batch": [b'[{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"a":@}}]'],
    "bare list": [b"@", b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}'],
    "log": [
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":@}}',
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}',
    ],
    "progress": [
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":@ID@,"progress":1,"a":@}}',
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}',
    ],
    "update": [
        b'{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"f:a","a":@}}',
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}',
    ],
    "question": [
        b'{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{"maxTokens":1,"messages":@}}',
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}',
    ],
    "unknown question": [
        b'{"jsonrpc":"2.0","id":"q","method":"x/y","params":{"a":@}}',
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}',
    ],
    "list": [
        b'{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}',
        b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}',
    ],
}
_ID = re.compile(rb'"id":("[^"]*"|\d+)')
_METHOD = re.compile(rb'"method":"([^"]*)"')
_ARGUMENTS = re.compile(rb'"arguments":(\{"shape":[^{}]*\})')
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("shape", "swallow")]


class Shaper:
    def __init__(self) -> None:
        self.listed = b"[]"

    def answers(self, message: bytes) -> list[bytes]:
        """Return what is said to a message, without reading more than its beginning."""
        head = message[:600]
        id, method = _ID.search(head), _METHOD.search(head)
        if method is None or id is None or id.start() > method.start():
            return []
        match method[1]:
            case b"initialize":
                said = json.loads(message)["params"]["protocolVersion"]
                capabilities = {"tools": {}, "prompts": {"listChanged": True}, "logging": {}}
                info = {"name": "shaper", "version": "1"}
                return [_result(id[1], {"protocolVersion": said, "capabilities": capabilities, "serverInfo": info})]
            case b"tools/list":
                return [_result(id[1], {"tools": TOOLS})]
            case b"prompts/list":
                return [b'{"jsonrpc":"2.0","id":%b,"result":{"prompts":%b}}' % (id[1], self.listed)]
            case b"tools/call":
                found = _ARGUMENTS.search(head)
                return self.shaped(id[1], json.loads(found[1])) if found else [_result(id[1], {"content": []})]
            case b"ping":
                return [_result(id[1], {})]
            case _:
                return [b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32601,"message":"Method not found"}}' % id[1]]

    def shaped(self, id: bytes, asked: dict[str, str]) -> list[bytes]:
        shape = SHAPES[asked["shape"]](int(asked.get("size", 15 * MIB)))
        if asked["frame"] == "list":
            self.listed = shape
        return [part.replace(b"@ID@", id).replace(b"@", shape) for part in FRAMES[asked["frame"]]]


def _result(id: bytes, result: object) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, json.dumps(result).encode())


def speak_lines(shaper: Shaper) -> None:
    for line in sys.stdin.buffer:
        for answer in shaper.answers(line):
            view = memoryview(answer.replace(b"\n", b" ") + b"\n")
            while view:
                view = view[os.write(1, view) :]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shaper: Shaper

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answers = self.shaper.answers(body)
        if not answers:
            self._say(202, "", b"")
        elif len(answers) == 1 and self.path == "/json":
            self._say(200, "application/json", answers[0])
        else:
            data = b"".join(b"data: %b\n\n" % answer.replace(b"\n", b" ") for answer in answers)
            self._say(200, "text/event-stream", data)

    def do_GET(self) -> None:
        self._say(405, "", b"")

    do_DELETE = do_GET

    def _say(self, status: int, label: str, body: bytes) -> None:
        self.send_response(status)
        if label:
            self.send_header("Content-Type", label)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    shaper = Shaper()
    if "--http" not in sys.argv:
        speak_lines(shaper)
        return
    Handler.shaper = shaper
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
