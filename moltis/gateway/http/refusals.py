"""What is answered to a request that is not served: a JSON-RPC error with a status of HTTP (contract 8).

Pure. What the request said is not repeated, but for its id, and a name that a key of moltis.toml lets in.
"""

from __future__ import annotations

import msgspec

from moltis.access import Access
from moltis.errors import RpcCode
from moltis.gateway import messages
from moltis.gateway.api import Principal
from moltis.gateway.doors import Headers
from moltis.httpd.asgi import BodyRefused
from moltis.session.handshake import HANDSHAKE_VERSIONS, MODERN_VERSIONS


class Refusal(msgspec.Struct, frozen=True):
    """An answer of ours. `data`: JSON, or nothing."""

    status: int
    code: int
    message: str
    headers: Headers = ()
    data: bytes = b""

    def body(self, id: bytes = b"null") -> bytes:
        """Return the JSON-RPC error; `id`: JSON."""
        return messages.error(id, self.code, self.message, self.data)


def wrong(reason: str, *, status: int = 400, code: int = RpcCode.INVALID_REQUEST) -> Refusal:
    return Refusal(status, code, reason)


def forbidden(reason: str) -> Refusal:
    return Refusal(403, RpcCode.FORBIDDEN, reason)


def not_allowed(access: Access, principal: Principal) -> Refusal:
    """RFC 6750 section 3.1, insufficient_scope: the token is good, and not enough."""
    if access is Access.ADMIN:
        return forbidden("no access token is enough for this: it is done by the moltis command")
    if access is Access.CALL and not principal.may_write:
        return forbidden("this needs an access token of scope write; this one may only read")
    return forbidden("this access token is bound to other paths")


def unauthorized(*, token_given: bool) -> Refusal:
    """RFC 6750 section 3: an error is named only to who has sent a token."""
    if token_given:
        challenge = b'Bearer error="invalid_token"'
        return Refusal(
            401, RpcCode.UNAUTHORIZED, "this access token is unknown or expired", ((b"www-authenticate", challenge),)
        )
    message = "an access token is needed (moltis token create), as Authorization: Bearer TOKEN"
    return Refusal(401, RpcCode.UNAUTHORIZED, message, ((b"www-authenticate", b"Bearer"),))


def rate_limited(secs: int) -> Refusal:
    return Refusal(
        429, RpcCode.RATE_LIMITED, f"too many requests; try again in {secs} s", ((b"retry-after", b"%d" % secs),)
    )


def method_not_allowed(allowed: bytes, reason: str) -> Refusal:
    return Refusal(405, RpcCode.INVALID_REQUEST, reason, ((b"allow", allowed),))


def not_acceptable(reason: str) -> Refusal:
    return Refusal(406, RpcCode.INVALID_REQUEST, reason)


def not_json() -> Refusal:
    return Refusal(415, RpcCode.INVALID_REQUEST, "Content-Type must be application/json")


def compressed() -> Refusal:
    """RFC 9110 section 15.5.16: what may be sent instead is in Accept-Encoding."""
    told = "a body cannot be compressed here: send it without Content-Encoding"
    return Refusal(415, RpcCode.INVALID_REQUEST, told, ((b"accept-encoding", b"identity"),))


def of_body(refused: BodyRefused) -> Refusal:
    match refused.status:
        case 413:
            return Refusal(413, RpcCode.INVALID_REQUEST, refused.reason, ((b"connection", b"close"),))
        case 503:
            return overloaded(refused.reason)
        case status:
            return wrong(refused.reason, status=status)


def no_session() -> Refusal:
    """MCP 2025-11-25, Session Management: a host that is told so begins a new one."""
    return Refusal(404, RpcCode.INVALID_REQUEST, "there is no such session, or not any more: initialize again")


def unknown_server(reason: str = "there is no server of that name; see moltis status") -> Refusal:
    return Refusal(404, RpcCode.UNKNOWN_SERVER, reason)


def unsupported_version() -> Refusal:
    """MCP 2025-06-18 and later, Transports, Protocol Version Header."""
    known = ", ".join([*HANDSHAKE_VERSIONS, *MODERN_VERSIONS])
    return Refusal(400, RpcCode.INVALID_REQUEST, f"this MCP-Protocol-Version is not spoken here; these are: {known}")


def overloaded(reason: str) -> Refusal:
    return Refusal(503, RpcCode.INTERNAL_ERROR, reason, ((b"retry-after", b"5"),))


def stopping() -> Refusal:
    """RFC 9110 15.6.4: nothing was done with the request, and it may be sent again to the daemon that comes next."""
    return Refusal(503, RpcCode.NOT_READY, "moltis is stopping; nothing was sent", ((b"retry-after", b"1"),))


def gone() -> Refusal:
    return Refusal(500, RpcCode.INTERNAL_ERROR, "the gateway failed at this request; its log says more")
