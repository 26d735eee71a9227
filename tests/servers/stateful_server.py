"""An MCP server on the reference SDK with a state of its own: a counter, a current folder, and who its host is.

    stateful_server.py [--mark TEXT]

`--mark` does nothing: a test finds the process by it.
"""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer

warnings.simplefilter("ignore")

Ctx = Context[Any, Any]

server = MCPServer("stateful", version="1.0")
state: dict[str, Any] = {"count": 0, "folder": os.getcwd()}


@server.tool()
async def count(secs: float = 0.0) -> str:
    """Count one more call, and tell how many there were."""
    state["count"] += 1
    number = state["count"]
    await anyio.sleep(secs)
    return str(number)


@server.tool()
async def go(folder: str) -> str:
    """Go to another folder."""
    state["folder"] = folder
    return folder


@server.tool()
async def where() -> str:
    """Tell the current folder."""
    return str(state["folder"])


@server.tool()
async def pid() -> str:
    """Tell which process this is."""
    return str(os.getpid())


@server.tool()
async def host(ctx: Ctx) -> str:
    """Tell who the host has said it is when the session began, and what it can."""
    said: Any = ctx.session.client_params
    capabilities = said.capabilities.model_dump(exclude_none=True)
    return json.dumps({"name": said.client_info.name, "capabilities": sorted(capabilities)})


@server.tool()
async def roots(ctx: Ctx) -> str:
    """Ask for the folders of the host."""
    return str((await ctx.session.list_roots()).roots[0].uri)


@server.tool()
async def announce(ctx: Ctx) -> str:
    """Say something to the host that is about no call, and that the lists have changed."""
    await ctx.session.send_log_message("warning", f"from {os.getpid()}", logger="stateful")
    await ctx.session.send_tool_list_changed()
    return "announced"


@server.resource("state://count")
def counted() -> str:
    """Tell the count."""
    return str(state["count"])


if __name__ == "__main__":
    server.run()
