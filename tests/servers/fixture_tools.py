"""The tools that the MCP conformance suite's server scenarios name and that ask the client nothing, and some of ours.

Ours are those whose name does not begin with `test_`: what a test of the gateway wants to see from the server's side.
"""

from __future__ import annotations

import json
import os

import anyio
import mcp_types as types
from fixture_calls import LEVELS, PNG, WATCHED, WAV, Call, embedded, taking, text, tool
from mcp.server.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged

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


JSON_SCHEMA_2020_12 = json.loads("""{
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
}""")


@tool("Have a schema with what JSON Schema 2020-12 knows.", JSON_SCHEMA_2020_12)
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
        "watched": sorted(call.world.watchers),
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
    if uri in call.world.watchers:
        await call.world.watchers[uri].send_resource_updated(uri)
    return text("touched")


@tool("Only there while the list is changed.")
async def test_extra_tool(call: Call) -> types.CallToolResult:
    return text("extra")
