"""The bare SDK client on a stdio server, taking orders on stdin: {callers, calls} -> {seconds, wall}."""

from __future__ import annotations

import json
import sys
import time

import anyio
import anyio.to_thread
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

MESSAGE = {"message": "x" * 100}


async def main() -> None:
    command, *args = json.loads(sys.argv[1])
    async with Client(stdio_client(StdioServerParameters(command=command, args=args))) as client:
        await client.list_tools()
        print('"ready"', flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            order = json.loads(line)
            seconds: list[float] = []
            began = time.perf_counter()
            async with anyio.create_task_group() as callers:
                for _ in range(order["callers"]):
                    callers.start_soon(call, client, order["calls"] // order["callers"], seconds)
            print(json.dumps({"seconds": seconds, "wall": time.perf_counter() - began}), flush=True)


async def call(client: Client, count: int, seconds: list[float]) -> None:
    for _ in range(count):
        began = time.perf_counter()
        await client.call_tool("echo", MESSAGE)
        seconds.append(time.perf_counter() - began)


anyio.run(main)
