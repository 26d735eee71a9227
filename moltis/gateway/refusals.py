"""Errors of our own: their codes, and the HTTP status that goes with each.

What a server refuses is not here; it is passed on as it is.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from moltis.errors import MoltisError, RpcCode
from moltis.gateway import messages
from moltis.gateway.api import Outlet
from moltis.gateway.messages import CAPABILITIES, PROTOCOL_VERSION, Ask, text_of
from moltis.session.handshake import MODERN_VERSIONS

_CURRENT: Final = msgspec.json.encode(MODERN_VERSIONS[-1])

_LEGACY: Final[dict[int, int]] = {RpcCode.PARSE_ERROR: 400, RpcCode.INVALID_REQUEST: 400, RpcCode.FORBIDDEN: 403}
_MODERN: Final[dict[int, int]] = {
    **_LEGACY,
    RpcCode.INVALID_PARAMS: 400,
    RpcCode.HEADER_MISMATCH: 400,
    RpcCode.MISSING_CAPABILITY: 400,
    RpcCode.UNSUPPORTED_VERSION: 400,
    RpcCode.METHOD_NOT_FOUND: 404,
}


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not done. `data`: JSON, or nothing."""

    code: int
    message: str
    data: bytes = b""


def status_of(code: int, *, modern: bool) -> int:
    """Return the HTTP status of an error of ours (the manual's table; MCP 2026-07-28, Streamable HTTP)."""
    return (_MODERN if modern else _LEGACY).get(code, 200)


def refuse(outlet: Outlet, id: bytes, refusal: Refusal, *, modern: bool) -> None:
    """Reply with an error."""
    message = messages.error(id, refusal.code, refusal.message, refusal.data)
    outlet.reply(message, status_of(refusal.code, modern=modern))


def of_error(error: MoltisError) -> Refusal:
    """Refuse for a reason that is an error already."""
    return Refusal(error.rpc_code, error.message, _json(error.data()))


def bad_params(message: str) -> Refusal:
    """Refuse params that are missing or of a wrong type."""
    return Refusal(RpcCode.INVALID_PARAMS, message)


def no_such_method(method: str, hint: str = "") -> Refusal:
    """Refuse a method that is not known here."""
    return Refusal(RpcCode.METHOD_NOT_FOUND, f"Method not found: {method[:100]}{hint and '; '}{hint}")


def no_such_resource(uri: str, *, modern: bool) -> Refusal:
    """Refuse a resource that nobody has."""
    code = RpcCode.INVALID_PARAMS if modern else RpcCode.RESOURCE_NOT_FOUND
    return Refusal(code, "Resource not found", _json({"uri": uri}))


def forbidden(what: str) -> Refusal:
    """Refuse what a token is not for."""
    return Refusal(RpcCode.FORBIDDEN, f"{what} needs an access token of scope write; this one may only read")


def unsupported_version(requested: str) -> Refusal:
    """Refuse a request of another protocol revision (MCP 2026-07-28, Versioning)."""
    data = {"supported": list(MODERN_VERSIONS), "requested": requested[:100]}
    return Refusal(RpcCode.UNSUPPORTED_VERSION, "Unsupported protocol version", _json(data))


def too_many(told: str) -> Refusal:
    """Refuse one more subscription."""
    return Refusal(RpcCode.INTERNAL_ERROR, f"Subscription limit reached: {told}")


def shutting_down(reason: str) -> Refusal:
    """Refuse because the gateway is closed."""
    return Refusal(RpcCode.NOT_READY, f"moltis is going away: {reason}", _json({"kind": "not_ready", "server": None}))


def not_taken(reason: str) -> Refusal:
    """Refuse a request that came when the gateway was closed already: nothing was sent, and it may be asked again."""
    data = _json({"kind": "not_ready", "server": None, "sent": False})
    return Refusal(RpcCode.NOT_READY, f"moltis is going away: {reason}", data)


def unfit(ask: Ask) -> Refusal | None:
    """Say what is wrong with `_meta` of a modern request (MCP 2026-07-28, Per-request protocol fields)."""
    meta = ask.meta
    if bytes(meta[PROTOCOL_VERSION]) != _CURRENT:
        version = text_of(meta, PROTOCOL_VERSION)
        if version is None:
            return bad_params(f"params._meta: {PROTOCOL_VERSION} must be a string")
        if version not in MODERN_VERSIONS:
            return unsupported_version(version)
    if bytes(meta.get(CAPABILITIES, b""))[:1] != b"{":
        return bad_params(f"params._meta: {CAPABILITIES} is missing or not an object")
    return None


def _json(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value)
