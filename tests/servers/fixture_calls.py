"""How the fixture server's tools and prompts are declared, and what their handlers can do.

Each thing is declared once, with its handler. A handler that needs to know something of the client says `await
call.ask(...)` and is written for no era: a legacy client is sent a request; for a client of MCP 2026-07-28 the call
ends with an `input_required` result, and the handler runs again, from its start, with the answers there are by then.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus
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
    """What all clients of one fixture share.

    level: what `logging/setLevel` asked for last, of whichever client. watchers: the session that subscribed last, by
    URI.
    """

    bus: InMemorySubscriptionBus = field(default_factory=InMemorySubscriptionBus)
    level: str = "debug"
    hidden: set[str] = field(default_factory=lambda: {"test_extra_tool", "test_extra_prompt", "test://extra"})
    watchers: dict[str, Any] = field(default_factory=dict)
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
        name = run.__name__
        offered = types.Tool(name=name, description=description, input_schema=dict(schema or EMPTY))
        TOOLS[name] = Offered(offered, run)
        return run

    return register


def prompt(description: str, *arguments: str) -> Callable[[Handler], Handler]:
    def register(run: Handler) -> Handler:
        name = run.__name__
        wanted = [types.PromptArgument(name=a, description=f"The {a}.", required=True) for a in arguments]
        PROMPTS[name] = (types.Prompt(name=name, description=description, arguments=wanted or None), run)
        return run

    return register


def taking(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Give the schema of a tool's arguments; a property is a JSON type's name or its whole schema."""
    full = {k: {"type": v} if isinstance(v, str) else v for k, v in properties.items()}
    return {"type": "object", "properties": full, "required": list(required)}
