"""An MCP server over Streamable HTTP on the reference SDK: both protocol eras at one URL, open or behind OAuth.

    http_server.py [--port N] [--json] [--stateless] [--events FILE] [--mark TEXT]
                   [--issuer URL --introspection URL [--scopes "WORD WORD"]]
    http_server.py --sse ...          the older HTTP+SSE instead

Prints one line of JSON, {"url"}, when it listens. With --issuer it is a protected resource (RFC 9728) whose tokens are
introspected at every request (RFC 7662) and must be meant for it (RFC 8707). To `--events` one JSON object a line is
appended: every request that came in, and every tool that ran. `--mark` does nothing: a test finds the process by it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import httpx2
import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer

warnings.simplefilter("ignore")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class Events:
    """A file of JSON lines, appended to by single writes, so that a killed server leaves no half line."""

    def __init__(self, path: str | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else None

    def tell(self, event: str, **facts: object) -> None:
        if self._fd is not None:
            os.write(self._fd, json.dumps({"at": time.time(), "event": event, **facts}).encode() + b"\n")


class Introspection:
    """Asks the authorization server about every token (RFC 7662)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx2.AsyncClient(auth=("resource-server", "resource-server-secret"), trust_env=False)

    async def verify_token(self, token: str) -> AccessToken | None:
        answer = (await self._client.post(self._url, data={"token": token})).json()
        if not answer.get("active"):
            return None
        return AccessToken(
            token=token,
            client_id=answer["client_id"],
            scopes=answer.get("scope", "").split(),
            expires_at=answer.get("exp"),
            resource=answer.get("aud"),
        )


def build(options: argparse.Namespace, url: str, events: Events) -> MCPServer:
    """Make the server and its tools."""
    protected: dict[str, Any] = {}
    if options.issuer:
        protected["token_verifier"] = Introspection(options.introspection)
        # Validated as texts, which keeps an issuer without a path as it is: a URL made before would gain a slash.
        protected["auth"] = AuthSettings.model_validate(
            {
                "issuer_url": options.issuer,
                "resource_server_url": url,
                "required_scopes": options.scopes.split(),
                "validate_token_resource": True,
            }
        )
    server = MCPServer("http-fixture", version="1.0", **protected)
    counting = itertools.count(1)

    @server.tool()
    def echo(message: str) -> str:
        """Give `message` back."""
        events.tell("ran", tool="echo", message=message)
        return message

    @server.tool()
    def blob(size: int) -> str:
        """Give a text of so many bytes."""
        return "x" * size

    @server.tool()
    async def slow(secs: float) -> str:
        """Answer after so many seconds."""
        events.tell("ran", tool="slow")
        await anyio.sleep(secs)
        return "done"

    @server.tool()
    def count() -> str:
        """Add one to what it was, and tell it."""
        n = next(counting)  # called on threads, many at once
        events.tell("ran", tool="count", n=n)
        return str(n)

    @server.tool()
    def headers(ctx: Context[Any, Any]) -> str:
        """Tell the headers that this very request came with."""
        return json.dumps(dict(ctx.headers or {}))

    @server.tool()
    async def grow(name: str, ctx: Context[Any, Any]) -> str:
        """Add a tool of that name, and announce it in the peer's way."""
        server.add_tool(lambda: name, name=name, description="Grown.")
        await ctx.notify_tools_changed()
        if (ctx.protocol_version or "") < "2026":
            await ctx.session.send_tool_list_changed()
        return "announced"

    @server.resource("fixture://note")
    def note() -> str:
        """A note."""
        return "a note"

    @server.prompt()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Say hello to {name}."

    return server


def recorded(app: App, events: Events) -> App:
    """Tell of every request before it is served: method, path and header names, and whether it was authorized."""

    async def wrapped(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                facts = {"method": scope["method"], "path": scope["path"], "status": message["status"]}
                shown = {k: headers[k] for k in ("mcp-method", "mcp-name", "mcp-protocol-version") if k in headers}
                events.tell("request", **facts, authorized="authorization" in headers, **shown)
            await send(message)

        await app(scope, receive, noted)

    return wrapped


def main() -> None:
    """Listen, say where, and serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--events")
    parser.add_argument("--mark")
    parser.add_argument("--issuer")
    parser.add_argument("--introspection")
    parser.add_argument("--scopes", default="mcp:read")
    for flag in ("--json", "--stateless", "--sse"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    events = Events(options.events)
    # The protocol is named, or asyncio leaves Nagle's algorithm on and every answer in two writes takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", options.port))
    listener.listen(128)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    url = base + ("/sse" if options.sse else "/mcp")
    server = build(options, url, events)
    app = (
        server.sse_app()
        if options.sse
        else server.streamable_http_app(json_response=options.json, stateless_http=options.stateless)
    )
    config = uvicorn.Config(recorded(app, events), log_level="critical", timeout_graceful_shutdown=1)
    print(json.dumps({"url": url}), flush=True)
    anyio.run(uvicorn.Server(config).serve, [listener])


if __name__ == "__main__":
    main()
