"""The least a Streamable HTTP MCP server can do, as `fast_server.py` is for stdio: 2025-11-25, answers as JSON.

Run as `python -S -E fast_http_server.py`; prints its port. Standard library, one thread. Tools: echo {message}, and
big {bytes}: a text of that size.
"""

import asyncio
import json

from fast_server import TOOLS, encode, result_of

TOOLS.append({"name": "big", "inputSchema": {"type": "object"}})
BIG = {}


def result_json(method, params):
    if method != "tools/call" or params["name"] != "big":
        result = result_of(method, params)
        return None if result is None else encode(result)
    size = params["arguments"]["bytes"]
    if size not in BIG:
        BIG[size] = encode({"content": [{"type": "text", "text": "x" * size}], "isError": False})
    return BIG[size]


def answer(body):
    message = json.loads(body)
    if "id" not in message:
        return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
    result = result_json(message["method"], message.get("params"))
    outcome = '"error":{"code":-32601,"message":"Method not found"}' if result is None else f'"result":{result}'
    data = f'{{"jsonrpc":"2.0","id":{json.dumps(message["id"])},{outcome}}}'.encode()
    session = b"mcp-session-id: one\r\n" if message["method"] == "initialize" else b""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (session, len(data)) + data


class Connection(asyncio.Protocol):
    def __init__(self):
        self.rest = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.rest += data
        while (end := self.rest.find(b"\r\n\r\n")) >= 0:
            head = self.rest[:end].lower()
            length = 0
            if b"content-length:" in head:
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(self.rest) < end + 4 + length:
                return
            body, self.rest = self.rest[end + 4 : end + 4 + length], self.rest[end + 4 + length :]
            posted = head.startswith(b"post")
            self.transport.write(answer(body) if posted else b"HTTP/1.1 405 Not Allowed\r\ncontent-length: 0\r\n\r\n")


async def main():
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
