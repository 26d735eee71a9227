"""The bare SDK client on a stdio server (argv, as JSON) or a URL, taking orders on stdin.

{callers, calls, big?} -> {seconds, wall}. With `big` each call asks for a result of that many bytes.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anyio
import anyio.to_thread
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

MESSAGE = {"message": "x" * 100}


def target(server: str) -> Any:
    if server.startswith("http"):
        return server
    command, *args = json.loads(server)
    return stdio_client(StdioServerParameters(command=command, args=args))


async def main() -> None:
    async with Client(target(sys.argv[1])) as client:
        await client.list_tools()
        print('"ready"', flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            order = json.loads(line)
            seconds: list[float] = []
            began = time.perf_counter()
            async with anyio.create_task_group() as callers:
                for _ in range(order["callers"]):
                    callers.start_soon(call, client, order["calls"] // order["callers"], seconds, order.get("big"))
            print(json.dumps({"seconds": seconds, "wall": time.perf_counter() - began}), flush=True)


async def call(client: Client, count: int, seconds: list[float], big: int | None) -> None:
    tool, arguments = ("big", {"bytes": big}) if big else ("echo", MESSAGE)
    for _ in range(count):
        began = time.perf_counter()
        await client.call_tool(tool, arguments)
        seconds.append(time.perf_counter() - began)


anyio.run(main)
