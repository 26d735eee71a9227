"""An MCP server on the reference SDK, in both eras, whose tools ask the host in the style of the one or of the other.

    two_styles.py [--mark TEXT]                                over stdio
    two_styles.py --http PORT [--events FILE] [--only modern]  over Streamable HTTP; prints the port; 0 is any free one

`by_elicit`, `by_sampling` and `by_roots` send their host a request while they work, which is possible up to 2025-11-25;
`by_return` answers with its question, which is possible from 2026-07-28 on; `quick` asks nothing. To `--events` one
JSON object a line is appended: HTTP method, MCP method, revision and session of each request that came in. With `--only
modern` it refuses `initialize`, as a server of the newer era alone does; with `--stateless` it begins no session.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

warnings.simplefilter("ignore")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
Ctx = Context[Any, Any]

server = MCPServer("two-styles", version="1.0")
counting = itertools.count(1)
QUESTION = types.ElicitRequestFormParams(
    message="Who?", requested_schema={"type": "object", "properties": {"name": {"type": "string"}}}
)


class Name(BaseModel):
    name: str


@server.tool()
async def quick(secs: float = 0.0) -> str:
    """Ask nothing."""
    await anyio.sleep(secs)
    return "quick"


@server.tool()
async def by_elicit(ctx: Ctx) -> str:
    """Ask for a name by a request."""
    answer: Any = await ctx.elicit("Who?", Name)
    return f"Hello, {answer.data.name}!"


@server.tool()
async def by_sampling(ctx: Ctx) -> str:
    """Ask the model by a request."""
    asked = types.SamplingMessage(role="user", content=types.TextContent(text="Who?"))
    answer: Any = await ctx.session.create_message([asked], max_tokens=9, related_request_id=ctx.request_id)
    return f"Hello, {answer.content.text}!"


@server.tool()
async def by_roots(ctx: Ctx) -> str:
    """Ask for the roots by a request; it does not say which call it is about."""
    return f"Hello, {(await ctx.session.list_roots()).roots[0].uri}!"


@server.tool()
async def by_return(ctx: Ctx) -> types.CallToolResult | types.InputRequiredResult:
    """Ask for a name by returning the question."""
    answers: Any = ctx.input_responses
    if not answers:
        return types.InputRequiredResult(
            input_requests={"who": types.ElicitRequest(params=QUESTION)}, request_state="s"
        )
    return types.CallToolResult(content=[types.TextContent(text=f"Hello, {answers['who'].content['name']}!")])


@server.tool()
async def count() -> str:
    """Tell how often it was called."""
    return str(next(counting))


@server.tool()
async def grow(name: str, ctx: Ctx) -> str:
    """Add a tool, and announce it to the session of the call alone."""
    server.add_tool(lambda: name, name=name, description="Grown.")
    await ctx.session.send_tool_list_changed()
    return "announced"


def recorded(app: App, path: str | None, *, only_modern: bool) -> App:
    """Write down what comes in; refuse `initialize` if there is but one era."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else None

    async def wrapped(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = b""
        if scope["method"] == "POST":
            more = True
            while more:
                part = await receive()
                body += part.get("body", b"")
                more = part.get("more_body", False)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        method = json.loads(body).get("method", "") if body else ""
        if fd is not None:
            told = {
                "http": scope["method"],
                "method": method,
                "version": headers.get("mcp-protocol-version"),
                "session": headers.get("mcp-session-id"),
            }
            os.write(fd, json.dumps(told).encode() + b"\n")
        if only_modern and method == "initialize":
            data = {"supported": ["2026-07-28"], "requested": "2025-11-25"}
            error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
            refusal = json.dumps({"jsonrpc": "2.0", "id": json.loads(body)["id"], "error": error}).encode()
            start = {"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]}
            await send(start)
            await send({"type": "http.response.body", "body": refusal})
            return
        said = [body] if scope["method"] == "POST" else []

        async def again() -> Any:
            return {"type": "http.request", "body": said.pop(), "more_body": False} if said else await receive()

        await app(scope, again, send)

    return wrapped


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int)
    parser.add_argument("--events")
    parser.add_argument("--only")
    parser.add_argument("--stateless", action="store_true")
    parser.add_argument("--mark")
    options = parser.parse_args()
    if options.http is None:
        server.run()
        return
    # The protocol is named, or asyncio leaves Nagle's algorithm on and every answer in two writes takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", options.http))
    listener.listen(128)
    print(listener.getsockname()[1], flush=True)
    app = recorded(
        server.streamable_http_app(stateless_http=options.stateless),
        options.events,
        only_modern=options.only == "modern",
    )
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    anyio.run(uvicorn.Server(config).serve, [listener])


if __name__ == "__main__":
    main()
