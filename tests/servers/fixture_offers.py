"""What the fixture server offers: the tools, resources and prompts that the MCP conformance suite's server scenarios name.

Each thing is declared once, with its handler. A handler that needs to know something of the client says `await
call.ask(...)` and is written for no era: of a legacy client it is a request, of a client of MCP 2026-07-28 the call ends
with an `input_required` result, and the handler runs again, from its start, with the answers there are by then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Ctx = ServerRequestContext[Any, Any]
Answer = types.ElicitResult | types.CreateMessageResult | types.ListRootsResult
Question = types.ElicitRequest | types.CreateMessageRequest | types.ListRootsRequest
Asking = types.CallToolRequestParams | types.GetPromptRequestParams

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
WATCHED = "test://watched-resource"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}


class NeedsInput(Exception):
    """The call cannot go on without what `result` asks for."""

    def __init__(self, result: types.InputRequiredResult) -> None:
        super().__init__()
        self.result = result


@dataclass
class World:
    """What all clients of one fixture share. `level`: what `logging/setLevel` asked for last, of whichever client."""

    bus: InMemorySubscriptionBus = field(default_factory=InMemorySubscriptionBus)
    level: str = "debug"
    hidden: set[str] = field(default_factory=lambda: {"test_extra_tool", "test_extra_prompt", "test://extra"})
    watchers: dict[str, list[Any]] = field(default_factory=dict)
    cancelled: int = 0

    def toggle(self, name: str) -> None:
        self.hidden ^= {name}


@dataclass
class Call:
    """One run of a handler."""

    world: World
    ctx: Ctx
    params: Asking
    arguments: Mapping[str, Any]

    @property
    def modern(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def related(self) -> types.RequestId:
        assert self.ctx.request_id is not None
        return self.ctx.request_id

    async def log(self, text: str, level: types.LoggingLevel = "info") -> None:
        if self.modern or LEVELS.index(level) >= LEVELS.index(self.world.level):
            await self.ctx.session.send_log_message(level, text, "fixture", self.related)

    async def ask(self, *, keep: bool = False, **questions: Question) -> dict[str, Any]:
        """Have the client answer all questions. `keep`: an `input_required` result is to carry a `requestState`."""
        for question in questions.values():
            self._require(_capability(question))
        if not self.modern:
            return {key: await self._request(question) for key, question in questions.items()}
        known: dict[str, Any] = json.loads(self.params.request_state or "{}")
        for key, answer in (self.params.input_responses or {}).items():
            known[key] = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
        if missing := {k: q for k, q in questions.items() if k not in known}:
            state = json.dumps(known) if keep or known else None
            raise NeedsInput(types.InputRequiredResult(input_requests=missing, request_state=state))
        return {key: _result_type(q).model_validate(known[key], by_name=False) for key, q in questions.items()}

    async def _request(self, question: Question) -> Answer:
        about = ServerMessageMetadata(related_request_id=self.related)
        return cast(Answer, await self.ctx.session.send_request(question, _result_type(question), metadata=about))

    def _require(self, needed: types.ClientCapabilities) -> None:
        if self.ctx.session.check_client_capability(needed):
            return
        data = {"requiredCapabilities": needed.model_dump(by_alias=True, mode="json", exclude_none=True)}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "the client lacks a capability", data)

    def has(self, needed: types.ClientCapabilities) -> bool:
        return self.ctx.session.check_client_capability(needed)


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True)
class Offered:
    tool: types.Tool
    run: Handler


TOOLS: dict[str, Offered] = {}
PROMPTS: dict[str, tuple[types.Prompt, Handler]] = {}

SAMPLING = types.ClientCapabilities(sampling=types.SamplingCapability())
ELICITATION = types.ClientCapabilities(elicitation=types.ElicitationCapability())
ROOTS = types.ClientCapabilities(roots=types.RootsCapability())


def _capability(question: Question) -> types.ClientCapabilities:
    return {"sampling/createMessage": SAMPLING, "elicitation/create": ELICITATION, "roots/list": ROOTS}[question.method]


def _result_type(question: Question) -> type[Any]:
    found: dict[str, type[Any]] = {
        "sampling/createMessage": types.CreateMessageResult,
        "elicitation/create": types.ElicitResult,
        "roots/list": types.ListRootsResult,
    }
    return found[question.method]


def elicit(message: str, required: bool = True, **properties: Mapping[str, Any]) -> types.ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(properties)
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str, most: int = 100) -> types.CreateMessageRequest:
    said = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[said], max_tokens=most))


def text(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=said)])


def shown(answer: types.ElicitResult) -> str:
    return f"action={answer.action}, content={json.dumps(answer.content)}"


def embedded(uri: str, mime: str, content: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime, text=content))


def tool(description: str, schema: Mapping[str, Any] | None = None) -> Callable[[Handler], Handler]:
    """Offer a tool under the name of its handler."""

    def register(run: Handler) -> Handler:
        name = run.__name__  # type: ignore[attr-defined]
        offered = types.Tool(name=name, description=description, input_schema=dict(schema or EMPTY))
        TOOLS[name] = Offered(offered, run)
        return run

    return register


def prompt(description: str, *arguments: str) -> Callable[[Handler], Handler]:
    def register(run: Handler) -> Handler:
        name = run.__name__  # type: ignore[attr-defined]
        wanted = [types.PromptArgument(name=a, description=f"The {a}.", required=True) for a in arguments]
        PROMPTS[name] = (types.Prompt(name=name, description=description, arguments=wanted or None), run)
        return run

    return register


def taking(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Give the schema of a tool's arguments; a property is a JSON type's name or its whole schema."""
    full = {k: {"type": v} if isinstance(v, str) else v for k, v in properties.items()}
    return {"type": "object", "properties": full, "required": list(required)}


# -- what only answers


@tool("Give a text.")
async def test_simple_text(call: Call) -> types.CallToolResult:
    return text("This is a simple text response for testing.")


@tool("Give an image.")
async def test_image_content(call: Call) -> types.CallToolResult:
    return types.CallToolResult(content=[types.ImageContent(data=PNG, mime_type="image/png")])


@tool("Give a sound.")
async def test_audio_content(call: Call) -> types.CallToolResult:
    return types.CallToolResult(content=[types.AudioContent(data=WAV, mime_type="audio/wav")])


@tool("Give a resource.")
async def test_embedded_resource(call: Call) -> types.CallToolResult:
    content = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    return types.CallToolResult(content=[content])


@tool("Give a text, an image and a resource.")
async def test_multiple_content_types(call: Call) -> types.CallToolResult:
    content: list[types.ContentBlock] = [
        types.TextContent(text="Multiple content types test:"),
        types.ImageContent(data=PNG, mime_type="image/png"),
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]
    return types.CallToolResult(content=content)


@tool("Fail, as a tool does.")
async def test_error_handling(call: Call) -> types.CallToolResult:
    said = types.TextContent(text="This tool intentionally returns an error for testing")
    return types.CallToolResult(content=[said], is_error=True)


@tool("Have a schema with what JSON Schema 2020-12 knows.", json.loads("""{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "$defs": {"address": {"$anchor": "addressDef", "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
  "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
    "contactMethod": {"type": "string", "enum": ["phone", "email"]},
    "phone": {"type": "string"}, "email": {"type": "string"}},
  "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
  "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
  "then": {"required": ["phone"]},
  "else": {"required": ["email"]},
  "additionalProperties": false
}"""))
async def json_schema_2020_12_tool(call: Call) -> types.CallToolResult:
    return text(json.dumps(dict(call.arguments)))


HEADERS = taking(
    region={"type": "string", "x-mcp-header": "Region"},
    priority={"type": "integer", "x-mcp-header": "Priority"},
    query="string",
)


@tool("Have arguments that are HTTP headers too; say which came.", HEADERS)
async def test_x_mcp_header(call: Call) -> types.CallToolResult:
    came = dict(call.ctx.request.headers) if call.ctx.request is not None else {}
    headers = {k: v for k, v in came.items() if k.startswith("mcp-param-")}
    return text(json.dumps({"arguments": dict(call.arguments), "headers": headers}))


@tool("Give back the arguments.", taking(text="string"))
async def echo(call: Call) -> types.CallToolResult:
    return text(json.dumps(dict(call.arguments), ensure_ascii=False))


@tool("Say what is known of the client and of this call.")
async def seen(call: Call) -> types.CallToolResult:
    client, can = call.ctx.session.client_params, call.ctx.session.client_capabilities
    meta = dict(call.ctx.meta or {})
    known = {
        "pid": os.getpid(),
        "version": call.ctx.protocol_version,
        "client": client.client_info.model_dump(mode="json", exclude_none=True) if client else None,
        "capabilities": can.model_dump(by_alias=True, mode="json", exclude_none=True) if can else None,
        "level": call.world.level,
        "meta": meta,
        "watched": sorted(uri for uri, sessions in call.world.watchers.items() if sessions),
        "cancelled": call.world.cancelled,
    }
    return text(json.dumps(known, default=str))


@tool("Give a text of so many bytes.", taking(("bytes",), bytes="integer"))
async def big(call: Call) -> types.CallToolResult:
    return text("x" * int(call.arguments["bytes"]))


# -- what takes time, reports, or changes something


@tool("Take so many seconds.", taking(("secs",), secs="number"))
async def sleep(call: Call) -> types.CallToolResult:
    try:
        await anyio.sleep(call.arguments["secs"])
    except anyio.get_cancelled_exc_class():
        call.world.cancelled += 1
        raise
    return text("slept")


@tool("End the server.")
async def end(call: Call) -> types.CallToolResult:
    os._exit(3)


@tool("Log three messages.")
async def test_tool_with_logging(call: Call) -> types.CallToolResult:
    await call.log("Tool execution started")
    await anyio.sleep(0.05)
    await call.log("Tool processing data")
    await anyio.sleep(0.05)
    await call.log("Tool execution completed")
    return text("Tool with logging executed successfully")


@tool("Log at a level.", taking(level={"type": "string", "enum": list(LEVELS)}, data="string"))
async def test_logging_tool(call: Call) -> types.CallToolResult:
    await call.log(call.arguments.get("data", "This is a log message"), call.arguments.get("level", "info"))
    return text("logged")


@tool("Report progress three times.")
async def test_tool_with_progress(call: Call) -> types.CallToolResult:
    for done in (0, 50, 100):
        await call.ctx.session.report_progress(done, 100, f"{done} of 100")
        await anyio.sleep(0.05)
    return text("Tool with progress executed successfully")


@tool("End the answer's stream before the result, so that the client must come back for it.")
async def test_reconnection(call: Call) -> types.CallToolResult:
    if call.ctx.close_sse_stream is not None:
        await call.ctx.close_sse_stream()
        await anyio.sleep(0.1)
    return text("Reconnection test completed successfully.")


@tool("Add a tool to the list, or take it away again.")
async def test_trigger_tool_change(call: Call) -> types.CallToolResult:
    call.world.toggle("test_extra_tool")
    await call.world.bus.publish(ToolsListChanged())
    if not call.modern:
        await call.ctx.session.send_tool_list_changed()
    return text("tools changed")


@tool("Add a prompt to the list, or take it away again.")
async def test_trigger_prompt_change(call: Call) -> types.CallToolResult:
    call.world.toggle("test_extra_prompt")
    await call.world.bus.publish(PromptsListChanged())
    if not call.modern:
        await call.ctx.session.send_prompt_list_changed()
    return text("prompts changed")


@tool("Add a resource to the list, or take it away again.")
async def test_trigger_resource_change(call: Call) -> types.CallToolResult:
    call.world.toggle("test://extra")
    await call.world.bus.publish(ResourcesListChanged())
    if not call.modern:
        await call.ctx.session.send_resource_list_changed()
    return text("resources changed")


@tool("Tell whoever watches it that a resource was updated.", taking(uri="string"))
async def test_touch_resource(call: Call) -> types.CallToolResult:
    uri = call.arguments.get("uri", WATCHED)
    await call.world.bus.publish(ResourceUpdated(uri))
    for session in call.world.watchers.get(uri, []):
        await session.send_resource_updated(uri)
    return text("touched")


@tool("Only there while the list is changed.")
async def test_extra_tool(call: Call) -> types.CallToolResult:
    return text("extra")
