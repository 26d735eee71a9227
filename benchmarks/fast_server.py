"""The least a stdio MCP server can do: what is measured is the program between it and the client, not it.

Run as `python -S -E fast_server.py`; standard library, one thread, raw file descriptors. With `--hang` it reads and
never answers. Tools: echo {message}, big {bytes}: a text of that size, and flood {stderr_mb, line_mib}: so much stderr,
and one line of that size.
"""

import json
import os
import sys

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
TOOLS = [
    {"name": "echo", "inputSchema": {"type": "object", "properties": {"message": {"type": "string"}}}},
    {"name": "big", "inputSchema": {"type": "object", "properties": {"bytes": {"type": "integer"}}}},
    {"name": "flood", "inputSchema": {"type": "object"}},
]
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def flood(arguments):
    chunk = (b"a line of a flood, as long as lines of a log are, or longer\n" * 20000)[:1_000_000]
    for _ in range(arguments.get("stderr_mb", 0)):
        write_all(2, chunk)
    for _ in range(arguments.get("line_mib", 0)):
        write_all(1, b"x" * (1 << 20))
    write_all(1, b"\n")
    return "flooded"


def big_answer(id, size):
    """Put together without a look at the text, so that what a large result costs is the cost of moving it."""
    body = '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}],"isError":false}}\n'
    return body % (encode(id), "x" * size)


def result_of(method, params):
    if method == "tools/call":
        arguments = params.get("arguments") or {}
        text = arguments.get("message", "") if params["name"] == "echo" else flood(arguments)
        return {"content": [{"type": "text", "text": text}], "isError": False}
    if method == "initialize":
        asked = params["protocolVersion"]
        version = asked if asked in VERSIONS else VERSIONS[-1]
        info = {"name": "fast", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    return {"tools/list": {"tools": TOOLS}, "ping": {}}.get(method)


def answer(line):
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        return ""
    if message["method"] == "tools/call" and message["params"]["name"] == "big":
        return big_answer(message["id"], message["params"]["arguments"]["bytes"])
    result = result_of(message["method"], message.get("params"))
    if result is None:
        body = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}}
    else:
        body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
    return encode(body) + "\n"


def main():
    hang = "--hang" in sys.argv
    rest = b""
    while data := os.read(0, 1 << 18):
        *lines, rest = (rest + data).split(b"\n")
        if not hang:
            write_all(1, "".join(map(answer, lines)).encode())


if __name__ == "__main__":
    main()
