"""Hosts of both eras that can be asked anything, and the server whose tools ask in the styles of both, over HTTP."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from harness import PYTHON, SERVERS
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from patience import PATIENCE
from processes import signal_pid

PROGRAM = SERVERS / "two_styles.py"
MODES = {"legacy": "legacy", "modern": "2026-07-28"}
ANSWERS = {
    "quick": "quick",
    "by_elicit": "Hello, Zoë!",
    "by_sampling": "Hello, a model!",
    "by_roots": "Hello, file:///home/zoe!",
    "by_return": "Hello, Zoë!",
}
BY_REQUEST = ("by_elicit", "by_sampling", "by_roots")
WITHIN = PATIENCE


async def elicit(_context: Any, _params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Zoë"})


async def sample(_context: Any, _params: Any) -> types.CreateMessageResult:
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text="a model"), model="m")


async def roots(_context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///home/zoe")])


@contextlib.asynccontextmanager
async def a_host(era: str, target: StdioServerParameters | str) -> AsyncIterator[Client]:
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(target, str):
            http = await stack.enter_async_context(create_mcp_http_client())
            target = streamable_http_client(target, http_client=http)  # type: ignore[assignment]
        client = Client(
            target,
            mode=MODES[era],  # type: ignore[arg-type]
            cache=None,
            elicitation_callback=elicit,
            sampling_callback=sample,
            list_roots_callback=roots,
        )
        yield await stack.enter_async_context(client)


async def outcome(client: Client, tool: str) -> str:
    """Return what a tool said, or how it failed, whichever way that was told."""
    with anyio.fail_after(WITHIN):
        try:
            result = await client.call_tool(tool, {})
        except MCPError as error:
            return f"{error.error.code} {error.error.message}"
    return "\n".join(block.text for block in result.content)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it does not, in time.
    """
    with anyio.fail_after(WITHIN):
        while True:
            if await check():
                return
            await anyio.sleep(0.1)


class Web:
    """The server over HTTP, and what came in there."""

    def __init__(self, folder: Path, *options: str, mark: str = "") -> None:
        self.events = folder / "events"
        self._options = ("--events", str(self.events), "--mark", mark, *options)
        self.port = 0
        self.begin()

    def begin(self) -> None:
        """Start it; once more where it was before."""
        command = [PYTHON, str(PROGRAM), "--http", str(self.port), *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def came(self) -> list[dict[str, Any]]:
        """Return each request that came in: `http method version session`."""
        whole = (
            self.events.read_text().rpartition("\n")[0] if self.events.exists() else ""
        )  # the last may be half written
        return [json.loads(line) for line in whole.splitlines()]

    def asked(self, method: str) -> list[dict[str, Any]]:
        """Return the requests of one MCP method, or of one HTTP method but POST."""
        return [one for one in self.came() if method in (one["method"], one["http"])]

    def end(self) -> None:
        signal_pid(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=WITHIN)
