"""One request of HTTP: let in, read, handed on. An ASGI application without a framework.

A call of a tool spends some tens of microseconds here, and there is one task for it, uvicorn's own. The order is the
same for every path, whether something is there or not: where it comes from (`Host`, `Origin`), which route it is, who
may use that, how often, and only then what it says.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from moltis import logs
from moltis.access import Access
from moltis.errors import UnknownProject, UnknownServer
from moltis.gateway import messages
from moltis.gateway.api import ANYONE, GatewayApi, Principal
from moltis.gateway.doors import ALLOW_METHODS, BadRequest, Doors, Forbidden, RateLimit, Refusals, bearer
from moltis.gateway.http import plain, refusals
from moltis.gateway.http.conversations import Conversations
from moltis.gateway.http.reading import (
    BOM,
    ONCE,
    Accepts,
    Inbound,
    Refused,
    is_compressed,
    is_json,
)
from moltis.gateway.http.sessions import MAX_SESSIONS
from moltis.gateway.messages import Ask
from moltis.gateway.views import PATHS
from moltis.httpd.asgi import CLOSING, JSON, BodyRefused, Gone, Header, Held, Receive, Send, body_of, respond
from moltis.httpd.events import EVENTS
from moltis.httpd.router import Route, Router
from moltis.slices import in_slices
from moltis.steps import LONG_BYTES
from moltis.transport.wire import now

log = logs.get("moltis.gateway.http")

_PUBLIC: Final = Access.PUBLIC
_READ: Final = Access.READ
"""A member looked up in its class costs more than all that is decided by it."""

UNREAD_BYTES: Final = 64 * 1024
"""A longer body that was not read is not worth a connection that goes on."""
MAX_ACCEPTS: Final = 64
MOST_OF_ONE: Final = MAX_SESSIONS * 3 // 4
"""Requests and streams of one principal, which has a connection for each: the rest of connections and sessions is
others'."""
MCP_PATHS: Final = tuple(path + slash for path in PATHS for slash in ("", "/"))


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that can be replaced while requests are served; see `Application.reconfigure`.

    require_token: whether an access token is needed; else whoever reaches the address is served.
    allowed_hosts: names that it may be reached under besides its address.
    allowed_origins: of web pages that may use it, as `scheme://host[:port]`.
    rate_limit_per_minute: requests of one principal; 0: none.
    max_body_bytes: one request's body; at least 1.
    listen_host: the host part of `[gateway] listen`, as written.
    """

    require_token: bool = True
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    rate_limit_per_minute: int = 0
    max_body_bytes: int = 16 * 1024 * 1024
    listen_host: str = "127.0.0.1"


class Application:
    """The ASGI application; it wants `httpd.server.HttpServer` around it.

    authenticate: gives whom an access token stands for, None for one that is unknown or expired.
    lapsed: whether there is no access token of a name any more, or it has expired. What it let in is ended soon then.
    ready: whether the configuration is loaded.
    metrics: takes the figures and gives what makes Prometheus' text of them, on another thread; None: not served.
    most_of_one: how many requests and streams of one principal may be open.
    routes: further ones.
    conversations: what hosts have under way; of its own, unless a test brings another.
    """

    def __init__(
        self,
        gateway: GatewayApi,
        doors: Doors,
        authenticate: Callable[[str], Principal | None],
        settings: HttpSettings,
        ready: Callable[[], bool],
        metrics: Callable[[], Callable[[], bytes]] | None = None,
        *,
        lapsed: Callable[[str], bool] = lambda name: False,
        most_of_one: int = MOST_OF_ONE,
        routes: Sequence[Route[Inbound]] = (),
        conversations: Conversations | None = None,
    ) -> None:
        self._gateway = gateway
        self._doors = doors
        self._authenticate = authenticate
        self._settings = settings
        self._limit = RateLimit(settings.rate_limit_per_minute)
        self._conversations = conversations or Conversations(gateway, lapsed=lapsed)
        self._accepts: dict[bytes | None, Accepts] = {}
        self._held = Held()
        self._closed_doors = 0
        self._forbidden = Refusals()
        self._open: dict[str, int] = {}
        self._most_of_one = most_of_one
        self._router = Router(
            [
                # What makes a server do something needs more, which is asked of each message (`gateway.host`).
                *(Route(path, Access.READ, self._mcp, preflight=True) for path in MCP_PATHS),
                *plain.routes(ready, metrics),
                *routes,
            ],
            otherwise=plain.nothing,
        )

    @property
    def routes(self) -> Sequence[Route[Inbound]]:
        """All routes that there are."""
        return self._router.routes

    @property
    def sessions(self) -> int:
        """How many hosts have a session (legacy eras)."""
        return self._conversations.sessions

    @property
    def in_flight(self) -> int:
        """How many requests wait for their reply."""
        return self._conversations.in_flight

    def reconfigure(self, settings: HttpSettings) -> None:
        """Take other settings; requests under way are not affected, but for those that now needed a token."""
        if settings.rate_limit_per_minute != self._settings.rate_limit_per_minute:
            self._limit = RateLimit(settings.rate_limit_per_minute)
        self._doors = Doors(settings.allowed_origins, settings.listen_host, settings.allowed_hosts)
        before, self._settings = self._settings, settings
        if settings.require_token and not before.require_token:
            self.end_principal(ANYONE.name)

    def end_principal(self, name: str) -> None:
        """End the sessions, streams and requests of one principal: its access token was revoked."""
        self._closed_doors += 1
        self._conversations.end_principal(name)

    def end_streams(self) -> None:
        """End the streams that nothing is due on."""
        self._conversations.end_streams()

    def close(self) -> None:
        """End all streams, requests and sessions. Idempotent."""
        self._conversations.close()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        inbound = Inbound(scope, send)
        try:
            self._let_in(inbound)
            path = scope["path"]
            inbound.route = route = self._router.find(path)[0]
            inbound.view = path.removesuffix("/")
            if route.preflight and inbound.method == "OPTIONS":
                await self._preflight(inbound)
            else:
                if route.access is not _PUBLIC:
                    self._identify(inbound)
                await route.serve(inbound, receive)
        except Refused as refused:
            await self._refuse(inbound, refused.refusal, refused.id)
        except BodyRefused as refused:
            await self._refuse(inbound, refusals.of_body(refused), b"null")
        except (UnknownServer, UnknownProject):  # removed since it was looked for
            await self._refuse(inbound, refusals.unknown_server(), b"null")
        except Gone:
            pass
        except Exception as failure:
            log.error("gateway_request_failed", error=type(failure).__name__, where=_where(failure))
            await self._refuse(inbound, refusals.gone(), b"null")

    # --- doors

    def _let_in(self, inbound: Inbound) -> None:
        headers = inbound.headers
        try:
            if inbound.repeated and inbound.repeated & ONCE:
                raise BadRequest("a header that may be there once is there more than once")
            inbound.cors = self._doors.admit(headers.get(b"host"), headers.get(b"origin"))
        except Forbidden as failure:
            self._tell_of(failure)
            raise Refused(refusals.forbidden(failure.reason)) from None
        except BadRequest as failure:
            raise Refused(refusals.wrong(failure.reason)) from None

    def _tell_of(self, failure: Forbidden) -> None:
        """Log a refusal: whoever set up a proxy, a container or a desktop host may see nothing of its answer."""
        before = self._forbidden.tell(failure.key, failure.name, now())
        if before is not None:
            log.warning("gateway_refused", key=failure.key, name=failure.name, reason=failure.reason, not_logged=before)

    def _identify(self, inbound: Inbound) -> None:
        authorization = inbound.headers.get(b"authorization")
        token = bearer(authorization)
        principal = None if token is None else self._authenticate(token)
        if principal is None:
            if self._settings.require_token:
                raise Refused(refusals.unauthorized(token_given=authorization is not None))
            principal = ANYONE
        inbound.principal = principal
        inbound.connection.principal = principal.name
        needed = inbound.route.access
        if (needed is not _READ or principal.views is not None) and not principal.may(needed, inbound.view):
            raise Refused(refusals.not_allowed(needed, principal))
        if self._settings.rate_limit_per_minute:
            secs = self._limit.refused_secs(principal.name, now())
            if secs:
                raise Refused(refusals.rate_limited(secs))

    def _enter(self, inbound: Inbound) -> None:
        inbound.entered_as = name = inbound.principal.name
        count = self._open.get(name, 0)
        if count >= self._most_of_one:
            raise Refused(refusals.overloaded(f"{count} of your requests and streams are open"))
        self._open[name] = count + 1

    def _leave(self, inbound: Inbound) -> None:
        count = self._open[inbound.entered_as] - 1
        if count:
            self._open[inbound.entered_as] = count
        else:
            del self._open[inbound.entered_as]

    def _accepted(self, inbound: Inbound) -> Accepts:
        header = inbound.headers.get(b"accept")
        found = self._accepts.get(header)
        if found is None or b"accept" in inbound.repeated:
            found = Accepts.of(header)
            if b"accept" in inbound.repeated:  # several lines are one list; the last alone is not what was said
                return Accepts(True, True, True)
            if len(self._accepts) < MAX_ACCEPTS:
                self._accepts[header] = found
        return found

    async def _preflight(self, inbound: Inbound) -> None:
        requested = inbound.headers.get(b"access-control-request-headers")
        headers = self._doors.preflight(inbound.cors, requested)
        await inbound.send({"type": "http.response.start", "status": 204, "headers": headers})
        await inbound.send({"type": "http.response.body", "body": b""})

    # --- the routes of MCP

    async def _mcp(self, inbound: Inbound, receive: Receive) -> None:
        if not self._gateway.knows(inbound.view):
            raise Refused(refusals.unknown_server(self._gateway.why_unknown(inbound.view)))
        if inbound.method != "POST":
            await self._serve_other(inbound.method, inbound)
            return
        self._enter(inbound)
        try:
            headers = inbound.headers
            if not is_json(headers.get(b"content-type")):
                raise Refused(refusals.not_json())
            if (coding := headers.get(b"content-encoding")) is not None and is_compressed(coding):
                raise Refused(refusals.compressed())
            inbound.accepts = accepts = self._accepted(inbound)
            if not (accepts.plain or accepts.events):
                raise Refused(refusals.not_acceptable("Accept must have application/json and text/event-stream"))
            before = self._closed_doors
            name, most = inbound.principal.name, self._settings.max_body_bytes
            body = await body_of(receive, headers.get(b"content-length"), most, self._held, name)
            if self._closed_doors != before:  # somebody was shut out while this was being sent: is it whose this is?
                self._identify(inbound)
            if len(body) <= UNREAD_BYTES:
                await self._hand_on(inbound, body)
            else:
                with self._held.of(inbound.principal.name, len(body)):
                    await self._hand_on(inbound, body)
        finally:
            self._leave(inbound)

    async def _serve_other(self, method: str, inbound: Inbound) -> None:
        if method not in ("GET", "HEAD", "DELETE"):
            raise Refused(refusals.method_not_allowed(ALLOW_METHODS, "send messages by POST"))
        session = self._conversations.session(inbound, b"null")
        if session is None:
            raise Refused(refusals.method_not_allowed(b"POST", "without a session there is only POST"))
        if method == "DELETE":
            self._conversations.end(session)
            await respond(inbound.send, 204, inbound.cors)
            return
        accepts = self._accepted(inbound)
        if not (accepts.events or accepts.any):
            raise Refused(refusals.not_acceptable("GET opens a stream: Accept must have text/event-stream"))
        if method == "HEAD":  # what GET would say, without the stream (RFC 9110 9.3.2)
            await inbound.send({"type": "http.response.start", "status": 200, "headers": [*EVENTS, *inbound.cors]})
            await inbound.send({"type": "http.response.body", "body": b""})
            return
        self._enter(inbound)
        try:
            await self._conversations.stand(inbound, session)
        finally:
            self._leave(inbound)

    async def _hand_on(self, inbound: Inbound, body: bytes) -> None:
        body = body.removeprefix(BOM)  # RFC 8259 section 8.1 lets it be passed over; over stdio it is too
        if len(body) <= LONG_BYTES:
            message = messages.parse(body)
        else:
            message = await in_slices(messages.reading_of(body))
        if isinstance(message, Ask):
            await self._conversations.ask(inbound, message)
        else:
            await self._conversations.take(inbound, message)

    async def _refuse(self, inbound: Inbound, refusal: refusals.Refusal, id: bytes) -> None:
        headers: list[Header] = [JSON, *refusal.headers, *inbound.cors]
        if CLOSING not in refusal.headers and _is_long(inbound.headers):
            headers.append(CLOSING)
        await respond(inbound.send, refusal.status, headers, refusal.body(id))


def _is_long(headers: dict[bytes, bytes]) -> bool:
    """Whether a body follows that is long; or that may follow or not, as who sends it is asked for it first."""
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or b"expect" in headers:
        return True
    return not length.isdigit() or len(length) > 9 or int(length) > UNREAD_BYTES


def _where(failure: Exception) -> str:
    """Return the places in the code, without any values."""
    places = traceback.extract_tb(failure.__traceback__)[-3:]
    return " < ".join(f"{place.name}:{place.lineno}" for place in reversed(places))
