"""A host that has been let in says something: to which session it belongs, and how its answer goes back.

Knows nothing of doors. Whatever becomes of a request, what was taken for it is given back: its place in the session,
the host that was made for it alone, the eye that is kept on its connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from moltis.errors import RpcCode
from moltis.gateway import messages
from moltis.gateway.api import GatewayApi, Principal
from moltis.gateway.doors import Headers
from moltis.gateway.http import modern, refusals
from moltis.gateway.http.exchange import Exchange
from moltis.gateway.http.kept import LEARNT
from moltis.gateway.http.reading import Inbound, Refused, add_trace
from moltis.gateway.http.sessions import Session, Sessions
from moltis.gateway.messages import Answer, Ask, Tell, Unreadable
from moltis.httpd.asgi import respond
from moltis.httpd.events import PULSE_SECS, Flow
from moltis.session.handshake import HANDSHAKE_VERSIONS, MODERN_VERSIONS
from moltis.transport.wire import Cancellable, call_later, now

SESSION_ID: Final = b"mcp-session-id"
"""What a legacy host that cancelled is answered: its POST must be answered somehow."""
SESSION_SWEEP_SECS: Final = 60.0

_LEGACY: Final = frozenset(version.encode() for version in HANDSHAKE_VERSIONS)
_MODERN: Final = frozenset(version.encode() for version in MODERN_VERSIONS)
_AGREED: Final = re.compile(rb'"protocolVersion": ?"([0-9-]{10})"')
_NEWEST_LEGACY: Final = HANDSHAKE_VERSIONS[-1].encode()


class Conversations:
    """All that hosts have under way by HTTP.

    pulse_secs: half the time without an event until a comment is sent.
    lapsed: as of `application.Application`.
    """

    def __init__(
        self,
        gateway: GatewayApi,
        sessions: Sessions | None = None,
        *,
        pulse_secs: float = PULSE_SECS,
        lapsed: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._gateway = gateway
        self._sessions = Sessions(now) if sessions is None else sessions
        self._lapsed = lapsed
        self._flows: dict[Flow, Principal] = {}
        self._waiting = 0
        self._pulse = Ticker(pulse_secs, self._let_time_pass)
        self._sweep = Ticker(SESSION_SWEEP_SECS, self._sessions.end_idle)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def in_flight(self) -> int:
        """How many requests wait for their reply."""
        return self._waiting

    def end_streams(self) -> None:
        """End the streams that nothing is due on."""
        for flow in [flow for flow in self._flows if not isinstance(flow, Exchange)]:
            flow.end()

    def end_principal(self, name: str) -> None:
        """End everything of one principal."""
        self._sessions.end_principal(name)
        for flow in [flow for flow, principal in self._flows.items() if principal.name == name]:
            flow.end()

    def close(self) -> None:
        """End all streams, requests and sessions. Idempotent."""
        self._pulse.stop()
        self._sweep.stop()
        self._sessions.end_all()
        for flow in tuple(self._flows):
            flow.end()

    # --- streams and sessions

    async def stand(self, inbound: Inbound, session: Session) -> None:
        """Serve a standalone stream, until the session or the connection ends."""
        flow = Flow(inbound.connection, session.host.attached)
        flow.say_when_to_return()
        session.add_stream(flow)
        self._sessions.enter(session)
        self._attend(flow, inbound)
        try:
            session.host.attached()
            await flow.stream(inbound.send, inbound.cors)
        finally:
            self._flows.pop(flow, None)
            session.remove_stream(flow)
            self._sessions.leave(session)

    def end(self, session: Session) -> None:
        """End a session."""
        self._sessions.end(session)

    def session(self, inbound: Inbound, id: bytes) -> Session | None:
        """Return the session that is named; None if none is. `id`: JSON, of the request that names it.

        Raises:
            Refused: there is no such session, or it is somebody else's.
        """
        named = inbound.headers.get(SESSION_ID)
        if named is None:
            return None
        session = self._named(inbound, named.decode("latin-1"))
        if session is None:
            raise Refused(refusals.no_session(), id)
        return session

    def _reopened(self, inbound: Inbound) -> Session | None:
        """Return the session that is named by who initializes; one that is not there (any more) is begun anew."""
        named = inbound.headers.get(SESSION_ID, b"").decode("latin-1")
        return self._sessions.find(named, inbound.view, inbound.principal)

    def _named(self, inbound: Inbound, id: str) -> Session | None:
        found = self._sessions.find(id, inbound.view, inbound.principal)
        if found is None:
            found = self._sessions.take_up(id, inbound.view, inbound.principal, self._gateway.new_host)
            if found is not None:
                self._sweep.wind()
        return found

    def _begin(self, inbound: Inbound, ask: Ask) -> Session:
        session = self._sessions.begin(inbound.view, inbound.principal, self._gateway.new_host)
        if session is None:
            raise Refused(refusals.overloaded("all sessions are in use"), ask.id)
        self._sweep.wind()
        return session

    def _attend(self, flow: Flow, inbound: Inbound) -> None:
        self._flows[flow] = inbound.principal
        self._pulse.wind()

    def _let_time_pass(self) -> bool:
        for name in {principal.name for principal in self._flows.values()}:
            if name and self._lapsed(name):
                self.end_principal(name)
        for flow in tuple(self._flows):
            flow.pulse()
        return bool(self._flows)

    # --- messages

    async def ask(self, inbound: Inbound, ask: Ask) -> None:
        """Serve a request, to the end of its answer. Raises `Refused` as long as nothing was sent."""
        headers, version = inbound.headers, inbound.version
        if self._gateway.is_closed:
            raise Refused(refusals.stopping(), ask.id)
        if b"traceparent" in headers:
            add_trace(ask, headers)
        opens = ask.method == "initialize"  # it negotiates; the header counts from the next request on
        if ask.is_modern or (version in _MODERN and not opens):
            await self._ask_alone(inbound, ask)
            return
        if version is not None and version not in _LEGACY and not opens:
            raise Refused(refusals.unsupported_version(), ask.id)
        session = self._reopened(inbound) if opens else self.session(inbound, ask.id)
        if session is None and not opens:
            await self._ask_once(inbound, ask)
            return
        fresh = session is None
        if session is None:
            session = self._begin(inbound, ask)
        exchange = self._exchange(inbound, ask, asks=True)
        self._sessions.enter(session)
        session.open.setdefault(ask.id, exchange)
        self._waiting += 1
        try:
            session.host.request(ask, exchange)
            # If the connection is lost it goes on, and its reply is thrown away (MCP 2025-11-25, Sending Messages 6).
            if exchange.outcome is None and not await self._settled(exchange, inbound):
                return
            if fresh and not _is_refused(exchange):
                await self._sessions.keep(session, ask)  # a host that knows its id finds it again, however this ends
            elif ask.method in LEARNT and not _is_refused(exchange):
                self._sessions.learn(session, ask)
            begins = ask.method == "initialize"  # one that is begun over has its id in the answer too
            extra = (*inbound.cors, *_of_new_session(session, exchange)) if begins else inbound.cors
            await exchange.deliver(inbound.send, extra)
        finally:
            self._waiting -= 1
            self._flows.pop(exchange, None)
            if session.open.get(ask.id) is exchange:
                del session.open[ask.id]
            self._sessions.leave(session)
            if fresh and _is_refused(exchange):
                self._sessions.end(session)

    async def _ask_alone(self, inbound: Inbound, ask: Ask) -> None:
        """Serve a request that speaks for itself (2026-07-28): it is given up when its connection is lost."""
        self._check_modern(inbound, ask)
        host = self._gateway.new_host(inbound.view, inbound.principal, _nowhere, lasts=False)
        exchange = self._exchange(inbound, ask, asks=False)

        def lost() -> None:
            exchange.lost()
            host.close()

        self._waiting += 1
        inbound.connection.watch(lost)
        try:
            host.request(ask, exchange)
            if exchange.outcome is None and not await self._settled(exchange, inbound):
                return
            await exchange.deliver(inbound.send, inbound.cors)
        finally:
            self._waiting -= 1
            self._flows.pop(exchange, None)
            inbound.connection.unwatch(lost)
            host.close()

    async def _ask_once(self, inbound: Inbound, ask: Ask) -> None:
        """Serve a legacy request that belongs to no session, as small scripts send them."""
        host = self._gateway.new_host(inbound.view, inbound.principal, _nowhere, lasts=False)
        exchange = self._exchange(inbound, ask, asks=False)
        self._waiting += 1
        try:
            host.request(ask, exchange)
            if exchange.outcome is None and not await self._settled(exchange, inbound):
                return
            await exchange.deliver(inbound.send, (*inbound.cors, (modern.VERSION, inbound.version or _NEWEST_LEGACY)))
        finally:
            self._waiting -= 1
            self._flows.pop(exchange, None)
            host.close()

    def _exchange(self, inbound: Inbound, ask: Ask, *, asks: bool) -> Exchange:
        accepts = inbound.accepts
        return Exchange(inbound.connection, ask.id, streams=accepts.events, plain=accepts.plain, asks=asks)

    async def _settled(self, exchange: Exchange, inbound: Inbound) -> bool:
        self._attend(exchange, inbound)
        return await exchange.settle()

    def _check_modern(self, inbound: Inbound, ask: Ask) -> None:
        refusal = modern.refusal_of(ask, inbound.headers, inbound.repeated)
        if refusal is None and ask.method == "tools/call" and modern.has_arguments(ask, inbound.headers):
            name = messages.text_of(ask.params, "name")
            tool = None if name is None else self._gateway.tool(inbound.view, name)
            if tool is not None:
                arguments = ask.params.get("arguments")
                refusal = modern.mirrored_refusal_of(tool, arguments, inbound.headers, inbound.repeated)
        if refusal is None and ask.method == "subscriptions/listen" and not inbound.accepts.events:
            refusal = refusals.not_acceptable("this is answered by a stream: Accept must have text/event-stream")
        if refusal is not None:
            raise Refused(refusal, ask.id)

    async def take(self, inbound: Inbound, message: Tell | Answer | Unreadable) -> None:
        """Take anything else. Raises `Refused`."""
        if isinstance(message, Unreadable):
            raise Refused(refusals.wrong(message.reason, code=message.code), message.id)
        if inbound.version in _MODERN:
            # In this revision a host has no answers to give, and what it has to tell is an extension's (Sending
            # Messages, 4 and 5).
            if isinstance(message, Answer):
                raise Refused(refusals.wrong("in this revision answers go into the request that is sent again"))
            host = self._gateway.new_host(inbound.view, inbound.principal, _nowhere, lasts=False)
            host.notification(message)
            host.close()
        elif inbound.version is not None and inbound.version not in _LEGACY:
            raise Refused(refusals.unsupported_version())
        else:
            session = self.session(inbound, b"null")
            if isinstance(message, Tell):
                _tell(session, message)
            elif session is None:
                raise Refused(refusals.wrong("an answer belongs to a session, and none is named"))
            else:
                session.host.answer(message)
        await respond(inbound.send, 202, inbound.cors)


def _tell(session: Session | None, tell: Tell) -> None:
    if session is None:
        return  # nobody is there to be told
    session.host.notification(tell)
    if tell.method == "notifications/cancelled":
        id = bytes(tell.params.get("requestId", b""))
        exchange = session.open.get(id)
        if exchange is not None:
            exchange.reply(messages.error(id, RpcCode.REQUEST_CANCELLED, "the request was cancelled"))


def _nowhere(message: bytes) -> bool:
    """There is no way to a host for what belongs to no request."""
    return False


def _is_refused(exchange: Exchange) -> bool:
    reply = exchange.outcome
    return reply is None or reply.startswith(b'{"jsonrpc":"2.0","id":%b,"error":' % exchange.id)


def _of_new_session(session: Session, exchange: Exchange) -> Headers:
    if exchange.outcome is None:  # it becomes a stream before it is known what the reply is
        return ((SESSION_ID, session.id.encode()),)
    if _is_refused(exchange):
        return ()
    agreed = _AGREED.search(exchange.outcome)
    version = (modern.VERSION, agreed[1]) if agreed else (modern.VERSION, _NEWEST_LEGACY)
    return ((SESSION_ID, session.id.encode()), version)


class Ticker:
    """Calls `work` every `secs` seconds from `wind` on, until it says that there is nothing left to do."""

    def __init__(self, secs: float, work: Callable[[], bool]) -> None:
        self._secs = secs
        self._work = work
        self._timer: Cancellable | None = None

    def wind(self) -> None:
        """Go on, or begin."""
        if self._timer is None:
            self._timer = call_later(self._secs, self._tick)

    def stop(self) -> None:
        """Stop. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if self._work():
            self.wind()
