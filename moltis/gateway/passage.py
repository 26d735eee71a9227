"""One request passed on: to a server of either era, and back with its answer, its progress and its log messages.

A passage is over exactly once: by its reply, or by being given up. After that nothing of it reaches the host. Questions
of the server are `relay`'s part, which calls in here and is called where they matter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec
from msgspec import Raw

from moltis import logs
from moltis.errors import MoltisError, RpcCode
from moltis.gateway import abilities, failures, introduction, levels, messages, revisions, rounds
from moltis.gateway.api import CallHandle, Outlet, ServerPort, Taker, Upstream
from moltis.gateway.asking import PROGRESS, HostSide
from moltis.gateway.desk import Desk
from moltis.gateway.messages import CAPABILITIES, CLIENT_INFO, LOG_LEVEL, Ask
from moltis.gateway.revisions import MODERN
from moltis.server.states import STARTING
from moltis.server.status import HostSeen
from moltis.session.calls import ErrorReply, Failed, Question, Reply, Result
from moltis.session.envelope import json_string

__all__ = ["Passage"]

log = logs.get("moltis.gateway")

INTERNAL: Final = "internal"
LOG: Final = "notifications/message"

MAX_PROGRESS_BYTES: Final = 64 * 1024
"""Of one notification of progress, which is a number and a sentence; what is longer is no host told."""

_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError)


class _Logged(msgspec.Struct):
    level: str | None = None


class _Wait:
    """One stretch of waiting. `scope` is there while its task is at it."""

    __slots__ = ("scope",)

    def __init__(self) -> None:
        self.scope: anyio.CancelScope | None = None


class Passage:
    """One request on its way. Parameters as for `Forwarding.begin`."""

    __slots__ = (
        "_ask",
        "_began",
        "_desk",
        "_handle",
        "_host",
        "_looks",
        "_modern",
        "_name",
        "_outlet",
        "_over",
        "_params",
        "_port",
        "_rounds",
        "_to_modern",
        "_token",
        "_tool",
        "_view",
        "_wait",
    )

    def __init__(
        self,
        desk: Desk,
        host: HostSide,
        ask: Ask,
        outlet: Outlet,
        port: ServerPort,
        params: dict[str, Raw],
        name: str | None,
        tool: str | None,
        view: str,
    ) -> None:
        self._desk = desk
        self._host = host
        self._ask = ask
        self._outlet = outlet
        self._port = port
        self._params = params
        self._name = name
        self._tool = tool
        self._view = view
        self._began = desk.clock()
        self._modern = ask.is_modern
        self._to_modern = False
        self._looks = False  # whether results are looked at for questions
        self._rounds = 0
        self._over = False
        self._handle: CallHandle | None = None
        self._token: str | None = None  # while it is parked
        self._wait: _Wait | None = None

    @property
    def server(self) -> str:
        """Give the name of the server it goes to."""
        return self._port.name

    @property
    def principal(self) -> str:
        """Return the name of the principal whose request it is."""
        return self._host.principal.name

    @property
    def owes_a_reply(self) -> bool:
        """Whether a host waits for it: its request has had no reply of any kind."""
        return not self._over and self._token is None

    # --- to the server

    def send(self) -> None:
        """Send the request, as soon as the server takes it."""
        upstream = self._port.upstream()
        if upstream is not None:
            self._send_by(upstream)
        elif self._port.state() not in STARTING:
            self.fail(failures.not_ready(self._port.status()))
        elif not self._desk.may_wait(self.principal):
            self.fail(failures.still_starting(self._port.status(), 0))
        else:
            self._wait_for(self._settled_in_time, self._settled)

    def _send_by(self, upstream: Upstream) -> None:
        """Send it in its host's era, once there is a session of that; a further round goes where the first went."""
        taker = upstream if self._rounds else upstream.taker(modern=self._modern, tool=self._movable())
        if taker is None and self._desk.may_wait(self.principal):
            self._wait_for(upstream.wait_taker, self.send)
        else:
            self._forward(taker or upstream)

    def _movable(self) -> str | None:
        """Give the tool, if this is the first that a server hears of a call of it."""
        return None if rounds.RESPONSES in self._params or rounds.REQUEST_STATE in self._params else self._tool

    def _forward(self, upstream: Taker) -> None:
        ask, params, meta = self._ask, self._params, self._ask.meta
        self._to_modern = upstream.agreed.era == "modern"
        if self._to_modern:
            meta = self._modern_meta(upstream)
        elif self._modern or self._rounds:
            if rounds.REQUEST_STATE in params:  # a legacy server gives no state: it is ours and over, or another's
                self.fail(failures.StateUnknown(self._port.name))
                return
            params = rounds.without_rounds(params)
        try:
            self._handle = upstream.forward(
                ask.method, params, meta, self._replied, caller=self, name=self._name, tool=self._tool
            )
        except MoltisError as error:
            self.fail(error)

    def _modern_meta(self, upstream: Taker) -> dict[str, Raw]:
        """Say for a legacy host who it is and what it can; and for either, that forms are answered by default."""
        meta = self._ask.meta
        by_default = upstream.default_answer(rounds.ELICIT, b"{}") is not None
        if self._modern:
            added = abilities.with_forms(bytes(meta.get(CAPABILITIES, b"{}"))) if by_default else None
            self._looks = added is not None
            return meta if added is None else {**meta, CAPABILITIES: Raw(added)}
        self._looks = True
        capabilities = self._host.capabilities if self._outlet.can_ask() else b"{}"
        added = abilities.with_forms(capabilities) if by_default else None
        meta = {**meta, CLIENT_INFO: Raw(self._host.client_info), CAPABILITIES: Raw(added or capabilities)}
        if self._host.log_level is not None:
            meta[LOG_LEVEL] = Raw(json_string(self._host.log_level))
        return meta

    # --- waiting: the only part that needs a task

    def _wait_for(self, work: Callable[[], Awaitable[None]], then: Callable[[], None]) -> None:
        """Call `then` after `work`, unless `_stop_waiting` comes first."""
        wait = self._wait = _Wait()
        self._desk.waiting.add(self)

        async def waiting() -> None:
            try:
                if self._wait is wait:
                    with anyio.CancelScope() as wait.scope:
                        await work()
            except BaseException:
                self._desk.waiting.discard(self)  # the daemon ends
                raise
            if self._wait is wait:
                self._stop_waiting()
                self._go_on(then)

        self._desk.world.start(waiting)

    def _go_on(self, work: Callable[[], None]) -> None:
        """Do what nobody waits to hear the end of but the host; where that fails, the failure is its reply."""
        try:
            work()
        except Exception as fault:
            log.error("request_failed", server=self.server, method=self._ask.method[:100], error=type(fault).__name__)
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.cancel("moltis failed at it")
            if self.owes_a_reply:
                self.fail(MoltisError("moltis failed at this request; its log says more", server=self.server))

    def _stop_waiting(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            self._desk.waiting.discard(self)
            if wait.scope is not None:
                wait.scope.cancel()

    async def _settled_in_time(self) -> None:
        with anyio.move_on_after(self._port.start_secs()):
            await self._port.wait_settled()

    def _settled(self) -> None:
        upstream = self._port.upstream()
        if upstream is not None:
            self._send_by(upstream)
        elif self._port.state() in STARTING:
            self.fail(failures.still_starting(self._port.status(), self._port.start_secs()))
        else:
            self.fail(failures.not_ready(self._port.status()))

    # --- from the server

    @property
    def host(self) -> object:
        """Whose request it is; of a parked one, whose it was."""
        return self._host

    @property
    def kin(self) -> object:
        """Whom the host speaks for; where anybody may come in, for nobody but itself."""
        principal = self._host.principal
        return principal if principal.is_known else self._host

    @property
    def seen(self) -> HostSeen:
        """Who the host says it is."""
        said = bytes(self._ask.meta.get(CLIENT_INFO, b"")) if self._modern else self._host.client_info
        return introduction.seen(said, modern=self._modern, token=self._host.principal.name)

    def progressed(self, params: bytes) -> None:
        """Pass progress on under the host's own token, if it gave one."""
        token = self._ask.meta.get("progressToken")
        if token is None or not self.owes_a_reply or len(params) > MAX_PROGRESS_BYTES:
            return
        try:
            members = _MEMBERS.decode(params)
        except _MALFORMED:
            return
        members["progressToken"] = token
        self._outlet.tell(messages.notification(PROGRESS, msgspec.json.encode(members)))

    def notified(self, method: str, params: bytes) -> None:
        """Pass on what the server says about this request; log messages from the level on that the host wants."""
        if self.owes_a_reply and (method != LOG or self._wants_log(params)):
            self._outlet.tell(messages.notification(method, params))

    def _wants_log(self, params: bytes) -> bool:
        """Modern hosts ask for log messages with each request, or get none (MCP 2026-07-28, Logging)."""
        wanted = messages.text_of(self._ask.meta, LOG_LEVEL) if self._modern else self._host.log_level
        if wanted is None:
            return not self._modern
        try:
            level = msgspec.json.decode(params, type=_Logged).level
        except _MALFORMED:
            return False
        return wanted in levels.LEVELS and levels.passes(wanted, level)

    def _replied(self, reply: Reply) -> None:
        if self._over:
            return
        if self._token is not None:
            self._keep(self._token, reply)
            return
        if self._looks and type(reply) is Result:
            required = rounds.read(reply.raw)
            if required is not None and self._next_round(required):
                return
        self._finish(reply)

    def fail(self, error: MoltisError) -> None:
        """End it with an error of ours."""
        self._finish(Failed(error))

    def _finish(self, reply: Reply) -> None:
        self._over = True
        self._handle = None  # it knows us: without this, a collection would have to find each reply of a megabyte
        self._stop_waiting()
        self._close_questions("the request that it is about is over")
        message, status, outcome = self._composed(reply)
        self._host.done(self._ask.id)  # before the reply: whoever reads that may be gone with it
        self._outlet.reply(message, status)
        if self._desk.on_request is not None:
            self._count(outcome)

    def _composed(self, reply: Reply) -> tuple[bytes, int, str]:
        """Make the reply of a host, with its HTTP status and the outcome. Never raises: it is owed, whatever it is."""
        ask = self._ask
        try:
            if type(reply) is Result:
                raw = reply.raw if not reply.hint else failures.hinted_result(reply.raw, reply.hint)
                raw = revisions.result_for(ask.method, raw, MODERN if self._modern else self._host.revision)
                if self._modern and not self._to_modern:
                    raw = failures.completed(ask.method, raw)
                return messages.result(ask.id, raw), 200, failures.outcome_of(reply)
            if type(reply) is ErrorReply:
                first = failures.page_first(ask, reply.raw) if self._modern and not self._to_modern else None
                if first is not None:
                    return first
                raw = reply.raw if not reply.hint else failures.hinted_error(reply.raw, reply.hint)
                return *failures.relayed(ask.id, raw, modern=self._modern), failures.outcome_of(reply)
            assert type(reply) is Failed
            answer = failures.answered(ask.id, ask.method, reply.error, modern=self._modern)
            return *answer, failures.outcome_of(reply)
        except Exception as fault:
            log.error("reply_not_composed", server=self.server, method=ask.method[:100], error=type(fault).__name__)
            told = f"the answer of server {self.server!r} cannot be passed on: see the log of moltis"
            return messages.error(ask.id, RpcCode.INTERNAL_ERROR, told), 200, INTERNAL

    def _count(self, outcome: str) -> None:
        desk = self._desk
        if desk.on_request is not None:
            desk.on_request(self._ask.method, self._port.name, self._tool, desk.clock() - self._began, outcome)

    # --- giving up

    def cancel(self, reason: str = "the caller went away") -> None:
        """Give it up: the server is told, no reply follows, `HostSide.done` is not called. Idempotent."""
        if self._over:
            return
        if self.owes_a_reply:
            self._count("cancelled")
        self._over = True
        self._stop_waiting()
        if self._token is not None:
            self._desk.parking.remove(self._token)
        self._close_questions(reason)
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel(reason)

    def abandon(self, error: MoltisError) -> None:
        """Give it up for a reason that its host is told."""
        if self.owes_a_reply:
            self.fail(error)

    # --- what `relay` adds

    def _next_round(self, required: rounds.Required) -> bool:
        raise NotImplementedError

    def _keep(self, token: str, reply: Reply) -> None:
        raise NotImplementedError

    def _close_questions(self, reason: str) -> None:
        raise NotImplementedError

    def can_answer(self, method: str, params: bytes) -> bool:
        raise NotImplementedError

    def asked(self, question: Question) -> None:
        raise NotImplementedError

    def withdrawn(self, question: Question, params: bytes) -> None:
        raise NotImplementedError
