"""What a host is told when a request has no answer of the server, in the form that its method and era want.

Pure. A tool call that failed on the way is a *result* with `isError`: that is what a model gets to read, and it can do
something else then. Every other method gets a JSON-RPC error.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from moltis.errors import LoginNeeded, MoltisError, RequestTimeout, ServerNotReady, UsageError
from moltis.gateway import messages
from moltis.server import mending
from moltis.server.status import ServerStatus
from moltis.session import envelope
from moltis.session.calls import ErrorReply, Failed, Reply

__all__ = ["NotAnswered", "answered", "not_ready", "outcome_of", "relayed", "status_of", "still_starting"]

ERROR_MEMBER: Final = "moltis/error"
"""Of `_meta` of a result: the `data` that a JSON-RPC error would carry."""

MODERN_STATUS: Final = {-32700: 400, -32600: 400, -32602: 400, -32020: 400, -32021: 400, -32022: 400, -32601: 404}
"""HTTP status by JSON-RPC code (MCP 2026-07-28, Streamable HTTP); the rest are 200."""

LEGACY_STATUS: Final = {-32700: 400, -32600: 400}
"""The same up to 2025-11-25, for errors of ours; a server's own are 200."""

_HINTS: Final = {
    "invalid": "moltis config check",
    "disabled": "moltis mcp enable {}",
    "stopped": "moltis mcp start {}",
    "awaiting_auth": "moltis mcp reauth {}",
}


class NotAnswered(MoltisError):
    """A question that the server put to the host came to nothing, so the request did too."""

    kind: ClassVar[str] = "not_answered"


def status_of(code: int, *, modern: bool, relayed: bool = False) -> int:
    """Give the HTTP status of an error reply. `relayed`: the error is the server's own."""
    if modern:
        return MODERN_STATUS.get(code, 200)
    return 200 if relayed else LEGACY_STATUS.get(code, 200)


def relayed(id: bytes, error: bytes, *, modern: bool) -> tuple[bytes, int]:
    """Give the reply that passes a server's own error on, and its HTTP status."""
    code = envelope.read_error(error).code if modern else None
    status = status_of(int(code), modern=True) if code is not None else 200
    return messages.relayed_error(id, error), status


def answered(id: bytes, method: str, error: MoltisError, *, modern: bool) -> tuple[bytes, int]:
    """Give the reply for a request that failed by our own finding, and its HTTP status.

    What the host did wrong itself (`UsageError`) is a JSON-RPC error for every method.
    """
    data = error.data()
    if method == "tools/call" and not isinstance(error, UsageError):
        result = {
            **({"resultType": "complete"} if modern else {}),
            "content": [{"type": "text", "text": _for_a_model(error)}],
            "isError": True,
            "_meta": {ERROR_MEMBER: data},
        }
        return messages.result(id, msgspec.json.encode(result)), 200
    code = int(error.rpc_code)
    return messages.error(id, code, error.message, msgspec.json.encode(data)), status_of(code, modern=modern)


def _for_a_model(error: MoltisError) -> str:
    parts = [error.message.rstrip(". ") + "."]
    retry = getattr(error, "next_retry_at", None)
    if retry is not None and retry not in error.message:
        parts.append(f"It is tried again at {retry}.")
    auth_url = getattr(error, "auth_url", None)
    if auth_url is not None:
        parts.append(f"They can do that at {auth_url} .")
    if error.hint:
        parts.append(f"What a person can do: {error.hint}")
    return " ".join(parts)


def not_ready(status: ServerStatus) -> MoltisError:
    """Say why a server takes no request now, when that changes, and what a person can do."""
    name = status.name
    if status.state == "awaiting_auth":
        return LoginNeeded(
            f"server {name!r} waits for a person to log in",
            server=name,
            auth_url=status.auth_url,
            hint=f"moltis mcp reauth {name}",
        )
    message = f"server {name!r} is {'in ' if status.state in ('backoff', 'cooldown') else ''}{status.state}"
    if status.next_retry_at is not None:
        message += f" until {status.next_retry_at}"
    if status.last_error is not None and status.state not in ("disabled", "stopped"):
        message += f": {status.last_error.message}"
    fallback = _HINTS.get(status.state, "moltis why {}").format(name)
    hint = "; ".join(" ".join(command.split()) for command in mending.commands(status)) or fallback
    return ServerNotReady(message, server=name, state=status.state, next_retry_at=status.next_retry_at, hint=hint)


def still_starting(status: ServerStatus, secs: float) -> ServerNotReady:
    """Say that a server was waited for and is not there yet. `secs`: how long."""
    return ServerNotReady(
        f"server {status.name!r} is still {status.state} after {secs:g} s",
        server=status.name,
        state=status.state,
        hint=f"call again in a moment; moltis why {status.name}",
    )


def outcome_of(reply: Reply) -> str:
    """Say in a word how a request ended: `ok error timeout not_ready login_needed lost invalid_params not_answered`.

    `error` is the server's own; whether a tool's result says `isError` is not looked at.
    """
    if isinstance(reply, Failed):
        return "timeout" if isinstance(reply.error, RequestTimeout) else reply.error.kind
    return "error" if isinstance(reply, ErrorReply) else "ok"
