"""An MCP server that offers whatever the MCP conformance suite's server scenarios name, in both protocol eras.

    fixture_server.py [--mark TEXT]              over stdio
    fixture_server.py --http PORT [--mark TEXT]  over Streamable HTTP at http://127.0.0.1:PORT/mcp; prints the port

PORT 0 is any free one. `--mark` does nothing: a test finds the process by it.
"""

from __future__ import annotations

import argparse
import socket
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import anyio
import fixture_questions
import fixture_tools
import mcp_types as types
import uvicorn
from fixture_calls import PNG, PROMPTS, TOOLS, WATCHED, Asking, Call, Ctx, NeedsInput, World
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError

warnings.simplefilter("ignore")

OFFERED = (fixture_tools, fixture_questions)
"""They fill TOOLS and PROMPTS when they are imported."""

RESOURCES = [
    types.Resource(uri="test://static-text", name="static-text", description="A text.", mime_type="text/plain"),
    types.Resource(uri="test://static-binary", name="static-binary", description="An image.", mime_type="image/png"),
    types.Resource(uri=WATCHED, name="watched-resource", description="It can be watched.", mime_type="text/plain"),
    types.Resource(uri="test://extra", name="extra", description="There while the list is changed."),
]
TEMPLATE = types.ResourceTemplate(
    uri_template="test://template/{id}/data",
    name="template",
    description="The data of an id.",
    mime_type="application/json",
)
TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    WATCHED: "This resource can be watched.",
    "test://extra": "extra",
}


class Fixture(Server[Any]):
    """The server. A legacy client is told that lists change, whatever the transport."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)


class Handlers:
    """What the server does with each method."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def list_tools(self, ctx: Ctx, params: Any) -> types.ListToolsResult:
        # The suite calls whichever comes first without arguments.
        names = sorted(TOOLS, key=lambda name: name != "test_simple_text")
        return types.ListToolsResult(tools=[TOOLS[name].tool for name in names if name not in self._world.hidden])

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        return TOOLS[name].tool.input_schema if name in TOOLS else None

    async def call_tool(
        self, ctx: Ctx, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        if params.name not in TOOLS:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        found: types.CallToolResult | types.InputRequiredResult
        found = await self._run(TOOLS[params.name].run, ctx, params)
        return found

    async def list_prompts(self, ctx: Ctx, params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[p for n, (p, _) in PROMPTS.items() if n not in self._world.hidden])

    async def get_prompt(
        self, ctx: Ctx, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        if params.name not in PROMPTS:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
        found: types.GetPromptResult | types.InputRequiredResult = await self._run(PROMPTS[params.name][1], ctx, params)
        return found

    async def _run(self, run: Any, ctx: Ctx, params: Asking) -> Any:
        try:
            return await run(Call(self._world, ctx, params, params.arguments or {}))
        except NeedsInput as needed:
            return needed.result
        except KeyError as missing:
            raise MCPError(types.INVALID_PARAMS, f"Missing argument: {missing}") from None

    async def list_resources(self, ctx: Ctx, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[r for r in RESOURCES if str(r.uri) not in self._world.hidden])

    async def list_templates(self, ctx: Ctx, params: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=[TEMPLATE])

    async def read_resource(self, ctx: Ctx, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        content: types.TextResourceContents | types.BlobResourceContents
        if uri == "test://static-binary":
            content = types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
        elif uri in TEXTS:
            content = types.TextResourceContents(uri=uri, mime_type="text/plain", text=TEXTS[uri])
        elif uri.startswith("test://template/") and uri.endswith("/data"):
            which = uri.removeprefix("test://template/").removesuffix("/data")
            data = f'{{"id":"{which}","templateTest":true,"data":"Data for ID: {which}"}}'
            content = types.TextResourceContents(uri=uri, mime_type="application/json", text=data)
        else:
            raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
        return types.ReadResourceResult(contents=[content])

    async def subscribe(self, ctx: Ctx, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self._world.watchers[str(params.uri)] = ctx.session
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Ctx, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self._world.watchers.pop(str(params.uri), None)
        return types.EmptyResult()

    async def complete(self, ctx: Ctx, params: types.CompleteRequestParams) -> types.CompleteResult:
        known = ["paris", "park", "party", "test", "testing"]
        values = [value for value in known if value.startswith(params.argument.value)]
        return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))

    async def set_level(self, ctx: Ctx, params: types.SetLevelRequestParams) -> types.EmptyResult:
        self._world.level = params.level
        return types.EmptyResult()


class Events(EventStore):
    """Keeps every event, so that a client may come back for what it missed."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._kept.append((stream_id, message))
        return str(len(self._kept) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id)
        stream = self._kept[last][0]
        for position, (kept_stream, message) in enumerate(self._kept[last + 1 :], last + 1):
            if kept_stream == stream and message is not None:
                await send_callback(EventMessage(message, str(position)))
        return stream


def make_server() -> Fixture:
    world = World()
    do = Handlers(world)
    server = Fixture(
        "fixture",
        version="1.0.0",
        title="Conformance fixture",
        instructions="Everything the conformance suite asks for.",
        get_tool_input_schema=do.input_schema,
        on_list_tools=do.list_tools,
        on_call_tool=do.call_tool,
        on_list_prompts=do.list_prompts,
        on_get_prompt=do.get_prompt,
        on_list_resources=do.list_resources,
        on_list_resource_templates=do.list_templates,
        on_read_resource=do.read_resource,
        on_subscribe_resource=do.subscribe,
        on_unsubscribe_resource=do.unsubscribe,
        on_subscriptions_listen=ListenHandler(world.bus),
        on_completion=do.complete,
        on_set_logging_level=do.set_level,
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="fixture"))
    return server


async def serve_stdio() -> None:
    server = make_server()
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def serve_http(port: int) -> None:
    app = make_server().streamable_http_app(event_store=Events(), retry_interval=100)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    print(listener.getsockname()[1], flush=True)
    # h11: httptools leaves the blanks after a header's value where they are (RFC 9110, 5.5).
    config = uvicorn.Config(app, http="h11", log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--mark")
    options = parser.parse_args()
    if options.http is None:
        anyio.run(serve_stdio)
    else:
        serve_http(options.http)
    return 0


if __name__ == "__main__":
    sys.exit(main())
