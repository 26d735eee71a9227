"""One request on its way: to a server of either era, and back with its answer, its progress and its log messages; and
the questions that its server has meanwhile (`sampling`, `elicitation`, `roots`).

Who asks how, and what becomes of it:

    legacy server, legacy host   a request to the host, beside its own; its answer goes back
    modern server, legacy host   requests to the host; with the answers the request is sent again
    legacy server, modern host   the request is answered with the questions, and *parked*; the retry goes on with it
    modern server, modern host   passes as it is, unless the answers are given by `elicitation = "defaults"`

A request is over exactly once: by its reply, or by being given up; after that nothing of it reaches the host. A
question leaves exactly once, answered or refused; when the request is over, all that are open are refused.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio
import msgspec
from msgspec import Raw

from moltis import logs
from moltis.errors import MoltisError, RequestTimeout, RpcCode
from moltis.gateway import abilities, failures, introduction, levels, messages, revisions, rounds
from moltis.gateway.api import CallHandle, Outlet, ServerPort, Taker, Upstream, World
from moltis.gateway.asking import PROGRESS, HostSide, Open, OpenQuestions, Tokens
from moltis.gateway.failures import NotAnswered
from moltis.gateway.messages import CAPABILITIES, CLIENT_INFO, LOG_LEVEL, Answer, Ask
from moltis.gateway.parking import Bond, Parking
from moltis.gateway.revisions import MODERN
from moltis.jsonrpc import MALFORMED, json_string
from moltis.server.states import STARTING
from moltis.server.status import HostSeen
from moltis.session.calls import ErrorReply, Failed, Question, Reply, Result
from moltis.session.envelope import read_error

log = logs.get("moltis.gateway")

INTERNAL: Final = "internal"
LOG: Final = "notifications/message"

ANSWER_SECS: Final = 600.0
"""How long a legacy host may take over a round. A legacy server's question is bounded by the call that it is part of
(`request_timeout_max_secs`); a modern server does not wait."""

MAX_QUOTED_CHARS: Final = 500
MAX_PROGRESS_BYTES: Final = 64 * 1024
"""Of one notification of progress, which is a number and a sentence; what is longer is no host told."""

OnRequest = Callable[[str, str, str | None, float, str], None]
"""Method, server, tool (for `tools/call`), seconds, outcome of each request; for counting.

Outcomes are those of `failures.outcome_of`, and `cancelled` and `input_required`.
"""

MAX_WAITING: Final = 1024
"""Requests that wait for a server to start, or to be sent again; of one principal, and of all but who has few."""

TOKEN_BYTES: Final = 24
"""As random as an access token: who has it may answer in the name of its host."""

_MEMBERS = msgspec.json.Decoder(dict[str, Raw])


class _Logged(msgspec.Struct):
    level: str | None = None


class _Cancelled(msgspec.Struct):
    reason: str = ""


class _Wait:
    """One stretch of waiting. `scope` is there while its task is at it."""

    __slots__ = ("scope",)

    def __init__(self) -> None:
        self.scope: anyio.CancelScope | None = None


class Relay:
    """One request on its way. Parameters as for `Forwarding.begin`. Fits `session.calls.Caller` and
    `forwarding.Running`.
    """

    __slots__ = (
        "_answers",
        "_ask",
        "_began",
        "_desk",
        "_handle",
        "_host",
        "_joining",
        "_kept",
        "_looks",
        "_modern",
        "_name",
        "_open",
        "_outlet",
        "_over",
        "_params",
        "_port",
        "_rounds",
        "_state",
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
        self._open: OpenQuestions | None = None  # most requests never have one

    @property
    def server(self) -> str:
        """Return the name of the server it goes to."""
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
        elif self._port.state() not in STARTING and not self._port.wakes():
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
        """Return the tool, if this is the first that a server hears of a call of it."""
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
        """Call `then` after `work`, unless `_stop_waiting` comes first. Its server is needed meanwhile."""
        if self._wait is None:
            self._port.hold()
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
            self._port.release()
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
        except MALFORMED:
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
        except MALFORMED:
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

    # --- what a server asks

    def can_answer(self, method: str, params: bytes) -> bool:
        """Whether the host can be asked this; see `Caller`."""
        if self._over:
            return False
        if self._modern:
            capabilities = bytes(self._ask.meta.get(CAPABILITIES, b""))
            return self._ask.method in rounds.IN_ROUNDS and abilities.can_answer(capabilities, method, params)
        return self._outlet.can_ask() and abilities.can_answer(self._host.capabilities, method, params)

    def asked(self, question: Question) -> None:
        """Take a legacy server's question; see `Caller`."""
        if self._over:
            question.refuse(rounds.OVER)
            return
        method, params = question.method, question.params
        if not self.can_answer(method, params):
            self._answer_by_default(question)
            return
        open = self._questions()
        if len(open) >= rounds.MAX_QUESTIONS:
            question.refuse(rounds.TOO_MANY)
            return
        one = open.add(method, params, question)
        if self._modern:
            if self._token is None and not self._joining:
                self._park()
        elif not open.put(one, self._host, self._outlet, self._answered):
            open.take(one)
            self._answer_by_default(question)

    def withdrawn(self, question: Question, params: bytes) -> None:
        """Ask for an answer no more; see `Caller`."""
        one = self._open.find(question) if self._open is not None else None
        if one is None or self._open is None:
            return
        self._open.take(one)
        if one.id is not None:
            self._host.take_back(one.id, _reason(params))

    def _questions(self) -> OpenQuestions:
        if self._open is None:
            self._open = OpenQuestions(self._desk.tokens)
            self._answers: dict[str, Raw] = {}  # of the round that is going on
            self._state: Raw | None = None
            self._kept: Reply | None = None  # the outcome that came while it was parked
            self._joining = False
        return self._open

    def _close_questions(self, reason: str) -> None:
        if self._open:
            self._open.close(self._host, rounds.OVER, reason)

    def _answer_by_default(self, question: Question) -> None:
        answer = self._default(question.method, question.params)
        if answer is None:
            question.refuse(rounds.CANNOT)
        else:
            question.answer(answer)

    def _default(self, method: str, params: bytes) -> bytes | None:
        upstream = self._port.upstream()
        return upstream.default_answer(method, params) if upstream is not None else None

    def _answered(self, one: Open, answer: Answer) -> None:
        """Take a legacy host's answer."""
        if self._open is not None and self._open.take(one):
            self._go_on(partial(self._take, one, answer))

    def _take(self, one: Open, answer: Answer) -> None:
        if one.question is not None:
            if answer.result is not None:
                one.question.answer(answer.result)
            else:
                one.question.refuse(answer.error or rounds.CANNOT)
            return
        if answer.result is not None:
            self._answers[one.key] = Raw(answer.result)
        elif one.method == rounds.ELICIT:
            self._answers[one.key] = Raw(rounds.CANCELLED)
        else:
            told = read_error(answer.error or b"").message[:MAX_QUOTED_CHARS]
            self._unanswered(f"the host refused {one.method}, which server {self.server!r} needs: {told}")
            return
        self._next_try()

    def _unanswered(self, message: str) -> None:
        self.fail(NotAnswered(message, server=self.server))

    # --- rounds of a modern server

    def _next_round(self, required: rounds.Required) -> bool:
        """Get a server's questions answered and ask it again. False: they are for the host, as they are."""
        open = self._questions()
        if self._modern:
            return self._round_by_default(required)
        self._rounds += 1
        if self._rounds > rounds.MAX_ROUNDS:
            self._unanswered(f"server {self.server!r} asked questions more than {rounds.MAX_ROUNDS} times")
            return True
        self._answers, self._state = {}, required.state
        for key, asked in required.questions.items():
            if not self._ask_in_round(open, key, asked.method, bytes(asked.params)):
                self._unanswered(f"server {self.server!r} needs {asked.method[:100]}, which this host cannot answer")
                return True
        if not required.questions:
            self._wait_for(partial(anyio.sleep, rounds.retry_delay(self._rounds)), self._next_try)
        elif open:
            self._wait_for(partial(anyio.sleep, ANSWER_SECS), self._answer_is_late)
        else:
            self._next_try()
        return True

    def _ask_in_round(self, open: OpenQuestions, key: str, method: str, params: bytes) -> bool:
        if self.can_answer(method, params):
            one = open.add(method, params, key=key)
            if open.put(one, self._host, self._outlet, self._answered):
                return True
            open.take(one)
        answer = self._default(method, params)
        if answer is not None:
            self._answers[key] = Raw(answer)
        return answer is not None

    def _round_by_default(self, required: rounds.Required) -> bool:
        answers: dict[str, Raw] = {}
        for key, asked in required.questions.items():
            answer = self._default(asked.method, bytes(asked.params))
            if answer is None:
                return False
            answers[key] = Raw(answer)
        if not answers or self._rounds >= rounds.MAX_ROUNDS:
            return False
        self._rounds += 1
        self._answers, self._state = answers, required.state
        self._next_try()
        return True

    def _next_try(self) -> None:
        """Send the request again, once everything is answered."""
        if self._open is not None and not self._open.in_round:
            self._stop_waiting()
            self._params = rounds.with_answers(self._params, self._answers, self._state)
            self.send()

    def _answer_is_late(self) -> None:
        self.fail(
            RequestTimeout(
                f"the host did not answer the questions of server {self.server!r} within {ANSWER_SECS:g} s",
                server=self.server,
                hint="call again",
            )
        )

    # --- a legacy server's questions to a modern host

    def _park(self) -> None:
        """Have the host come back with answers. If that cannot be, the questions are refused and the call goes on."""
        open, token, reply = self._questions(), None, b""
        if self._rounds < rounds.MAX_ROUNDS:
            bond = self._desk.bond(self._host, self._view, self.server, self._ask.method, self._name)
            token = self._desk.park(self, bond)
            if token is not None and not self._desk.parking.keeps(token, sum(map(len, self._ask.meta.values()))):
                self._desk.parking.remove(token)
                token = None
        if token is not None:
            asked = ((one.key, one.method, one.params) for one in open)
            try:  # before anything is noted: a host that gets no reply does not come back
                reply = messages.result(self._ask.id, rounds.as_round(asked, token))
            except Exception as fault:
                log.error("reply_not_composed", server=self.server, method=self._ask.method, error=type(fault).__name__)
                self._desk.parking.remove(token)
                token = None
        if token is None:
            open.close(self._host, rounds.TOO_MANY, "")
            return
        self._token = token
        self._keep_little()
        self._rounds += 1
        self._host.done(self._ask.id)
        self._outlet.reply(reply)
        self._count("input_required")

    def _keep_little(self) -> None:
        """Let go of the request, which has reached its server; of what it said of its host, keep a copy only."""
        ask = self._ask
        self._params = {}
        self._ask = Ask(ask.id, ask.method, {}, {name: value.copy() for name, value in ask.meta.items()})

    def _keep(self, token: str, reply: Reply) -> None:
        """Keep the outcome for the retry, if there is room."""
        self._close_questions("")
        if not isinstance(reply, Failed) and not self._desk.parking.keeps(token, len(reply.raw)):
            told = "its result came before the host's answer, and there was no room to keep it"
            reply = Failed(NotAnswered(told, server=self.server))
        self._kept = reply

    def join(self, host: HostSide, ask: Ask, outlet: Outlet, answers: dict[str, bytes]) -> None:
        """Go on with a host that came back; it has left the parking already.

        answers: by the keys of the questions. What is not answered is asked again.
        """
        open = self._questions()
        self._token = None
        self._host, self._ask, self._outlet, self._began = host, ask, outlet, self._desk.clock()
        if self._kept is not None:
            self._finish(self._kept)
            return
        self._joining = True
        for one in open:
            answer = answers.get(one.key)
            if answer is not None and one.question is not None and open.take(one):
                one.question.answer(answer)
        self._joining = False
        if open and not self._over:
            self._park()


class Desk:
    """What all requests on their way share: who is parked, who waits for a server, whose progress token is whose.

    One for the whole gateway. clock: measures durations, in seconds.
    """

    def __init__(self, world: World, on_request: OnRequest | None, clock: Callable[[], float]) -> None:
        self.world = world
        self.on_request = on_request
        self.clock = clock
        self.parking: Parking[Relay] = Parking(partial(secrets.token_urlsafe, TOKEN_BYTES))
        self.waiting: set[Relay] = set()
        self.tokens = Tokens()
        self._sweeping = False

    def may_wait(self, principal: str) -> bool:
        """Whether one more request of a principal may wait: there is room, or it has no more than an equal part."""
        total = len(self.waiting)
        if total < MAX_WAITING // 2:
            return True
        of = Counter(waiting.principal for waiting in self.waiting)
        own, holders = of[principal], len(of.keys() | {principal})
        return own < MAX_WAITING and (total < MAX_WAITING or (own < MAX_WAITING // holders and total < 2 * MAX_WAITING))

    def bond(self, host: HostSide, view: str, server: str, method: str, name: str | None) -> Bond:
        """Say what a retry must agree in with the request that it is one of."""
        return Bond(host.principal.name, view, server, method, name)

    def park(self, call: Relay, bond: Bond) -> str | None:
        """Park a call, see to it that it is given up when its time is up, and give its token; None: no room."""
        token = self.parking.put(call, bond, anyio.current_time())
        if token is not None and not self._sweeping:
            self._sweeping = True
            self.world.start(self._sweep)
        return token

    async def _sweep(self) -> None:
        """Run while calls are parked."""
        try:
            while self.parking:
                await anyio.sleep_until(self.parking.next_due())
                for call in self.parking.take_due(anyio.current_time()):
                    call.cancel("the host did not come back with an answer in time")
        finally:
            self._sweeping = False


def _reason(params: bytes) -> bytes:
    """Return the reason in `notifications/cancelled` as a JSON string; nothing if there is none."""
    try:
        return json_string(msgspec.json.decode(params, type=_Cancelled).reason)
    except MALFORMED:
        return b""
