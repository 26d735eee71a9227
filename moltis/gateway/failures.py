"""What a host is told when a request has no answer of the server, in the form that its method and era want.

Pure. A tool call that failed on the way is a *result* with `isError`: that is what a model gets to read, and it can do
something else then. Every other method gets a JSON-RPC error. The server's own errors pass as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Raw

from moltis import jsonrpc
from moltis.errors import LoginNeeded, MoltisError, RequestTimeout, RpcCode, ServerNotReady, UsageError
from moltis.gateway import abilities, messages, refusals, rounds
from moltis.gateway.messages import CAPABILITIES, Ask
from moltis.jsonrpc import MALFORMED
from moltis.server import mending
from moltis.server.states import TRAITS
from moltis.server.status import ServerStatus
from moltis.session.calls import ErrorReply, Failed, Reply

ERROR_MEMBER: Final = "moltis/error"
"""Of `_meta` of a result: the `data` that a JSON-RPC error would carry."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_LIST: Final = msgspec.json.Decoder(list[Raw])
_TEXT: Final = msgspec.json.Decoder(str)

COMPLETE: Final = {b"resultType": b'"complete"'}
READ: Final = {**COMPLETE, b"ttlMs": b"0", b"cacheScope": b'"private"'}
"""What the result of `resources/read` has to say (MCP 2026-07-28, Caching): nobody knows how long it stays true."""

NEEDS_PAGES: Final[dict[str, object]] = {"requiredCapabilities": {"elicitation": {"url": {}}}}


class _Error(msgspec.Struct):
    data: dict[str, msgspec.Raw]
    message: str = ""


class _Coded(msgspec.Struct):
    code: int | float | None = None


_ERROR: Final = msgspec.json.Decoder(_Error)
_CODED: Final = msgspec.json.Decoder(_Coded)


class NotAnswered(MoltisError):
    """A question that the server put to the host came to nothing, so the request did too."""

    kind: ClassVar[str] = "not_answered"


class NotVisited(NotAnswered):
    """A page that the server wants visited before it does the request was not."""

    def __init__(self, server: str) -> None:
        told = f"the page that server {server!r} needs was not visited"
        super().__init__(told, server=server, hint="call again, and go to the page that is named then")


class StateUnknown(UsageError):
    """A retry came with a `requestState` that stands for nothing (any more), or not for this host."""

    def __init__(self, server: str) -> None:
        super().__init__(
            "Invalid or expired requestState",
            server=server,
            hint="send the request again without requestState; one is good for a single retry, within ten minutes",
        )

    def data(self) -> dict[str, object]:
        return {**super().data(), "reason": "invalid_request_state"}


def relayed(id: bytes, error: bytes, *, modern: bool) -> tuple[bytes, int]:
    """Return the reply that passes a server's own error on, and its HTTP status."""
    code = _code(error) if modern else None
    status = 200 if code is None or code == RpcCode.FORBIDDEN else refusals.status_of(int(code), modern=True)
    return messages.relayed_error(id, error), status


def _code(error: bytes) -> float | None:
    try:
        return _CODED.decode(error).code
    except MALFORMED:
        return None


def page_first(ask: Ask, error: bytes) -> tuple[bytes, int, str] | None:
    """Return a modern host's reply to an error -32042 of an older server, the HTTP status and outcome; else None.

    MCP 2026-07-28 has that error no more (`docs/revisions.md`): the pages are a round's questions. What cannot be
    answered by a round is -32603, and a host that visits no pages hears what it would have to declare.
    """
    pages = rounds.pages_first(error)
    if pages is None:
        return None
    if ask.method not in rounds.IN_ROUNDS:
        return *_recoded(ask.id, error, RpcCode.INTERNAL_ERROR, {}), "error"
    able = bytes(ask.meta.get(CAPABILITIES, b""))
    if not all(abilities.can_answer(able, rounds.ELICIT, page) for page in pages):
        return *_recoded(ask.id, error, RpcCode.MISSING_CAPABILITY, NEEDS_PAGES), "error"
    asked = ((f"q{n}", rounds.ELICIT, page) for n, page in enumerate(pages, 1))
    return messages.result(ask.id, rounds.as_round(asked, rounds.VISIT)), 200, "input_required"


def _recoded(id: bytes, error: bytes, code: int, more: dict[str, object]) -> tuple[bytes, int]:
    """Return a server's error under another code, with all that it says, and the HTTP status."""
    found = _ERROR.decode(error)
    data = msgspec.json.encode({**found.data, **more})
    return messages.error(id, code, found.message, data), refusals.status_of(code, modern=True)


def answered(id: bytes, method: str, error: MoltisError, *, modern: bool) -> tuple[bytes, int]:
    """Return the reply to a request that failed by our own finding, and its HTTP status.

    What the host itself did wrong (`UsageError`) is a JSON-RPC error for every method.
    """
    if method != "tools/call" or isinstance(error, UsageError):
        refusal = refusals.of_error(error)
        reply = messages.error(id, refusal.code, refusal.message, refusal.data)
        return reply, refusals.status_of(refusal.code, modern=modern)
    result = {
        **({"resultType": "complete"} if modern else {}),
        "content": [{"type": "text", "text": _for_a_model(error)}],
        "isError": True,
        "_meta": {ERROR_MEMBER: error.data()},
    }
    return messages.result(id, msgspec.json.encode(result)), 200


def incapable(id: bytes, error: MoltisError, capabilities: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return the reply to a host of MCP 2026-07-28 that lacks these capabilities, and its HTTP status."""
    data = msgspec.json.encode({**error.data(), "requiredCapabilities": capabilities})
    message = messages.error(id, RpcCode.MISSING_CAPABILITY, _for_a_model(error), data)
    return message, refusals.status_of(RpcCode.MISSING_CAPABILITY, modern=True)


def completed(method: str, result: bytes) -> bytes:
    """Return a legacy server's result with the members that MCP 2026-07-28 requires. What is no object is left."""
    if result.lstrip(b" \t\r\n")[:1] != b"{":
        return result
    return messages.with_members(result, READ if method == "resources/read" else COMPLETE)


def hinted_error(error: bytes, hint: str) -> bytes:
    """Return a server's own error with what a person can do about it after its message; as it is if it has none."""
    try:
        members = _MEMBERS.decode(error)
        members["message"] = Raw(jsonrpc.json_string(_with_hint(_TEXT.decode(members["message"]), hint)))
        return msgspec.json.encode(members)
    except (*MALFORMED, KeyError):
        return error


def hinted_result(result: bytes, hint: str) -> bytes:
    """Return a server's own result with what a person can do about it as a last text; as it is if it has no content."""
    try:
        members = _MEMBERS.decode(result)
        told = b'{"type":"text","text":%b}' % jsonrpc.json_string(f"What a person can do: {hint}")
        members["content"] = Raw(msgspec.json.encode([*_LIST.decode(members["content"]), Raw(told)]))
        return msgspec.json.encode(members)
    except (*MALFORMED, KeyError):
        return result


def _with_hint(message: str, hint: str) -> str:
    return f"{message.rstrip('. ')}. What a person can do: {hint}"


def _for_a_model(error: MoltisError) -> str:
    parts = [error.message.rstrip(". ") + "."]
    if isinstance(error, ServerNotReady) and error.next_retry_at and error.next_retry_at not in error.message:
        parts.append(f"It is tried again at {error.next_retry_at}.")
    if isinstance(error, LoginNeeded) and error.auth_url:
        parts.append(f"They can do so at {error.auth_url} .")
    if error.hint:
        parts.append(f"What a person can do: {error.hint}")
    return " ".join(parts)


def not_ready(status: ServerStatus) -> MoltisError:
    """Say why a server takes no request now, when that changes, and what a person can do."""
    hint = "; ".join(" ".join(command.split()) for command in mending.commands(status))
    return mending.unavailable(status, hint or TRAITS[status.state].wait.format(status.name))


def still_starting(status: ServerStatus, secs: float) -> ServerNotReady:
    """Say that a server was waited for and is not there yet. `secs`: how long."""
    return ServerNotReady(
        f"server {status.name!r} is still {status.state} after {secs:g} s",
        server=status.name,
        state=status.state,
        hint=f"call again in a moment; moltis why {status.name}",
    )


def outcome_of(reply: Reply) -> str:
    """Say in a word how a request ended.

    `ok`, `tool_error` (a result with `isError`), `error` (the server's own), `timeout`, or the kind of our error.
    """
    if isinstance(reply, Failed):
        return "timeout" if isinstance(reply.error, RequestTimeout) else reply.error.kind
    if isinstance(reply, ErrorReply):
        return "error"
    return "tool_error" if reply.tool_error else "ok"
