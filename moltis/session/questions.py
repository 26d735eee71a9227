"""A server's questions on their way to the host whose call they are about (requests of the server, up to 2025-11-25).

Each is answered once or withdrawn: by its host, by what answers for hosts that cannot, or by a refusal. Whose it is, is
decided in `attribution`; until that is certain it waits, for a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

import anyio
from msgspec import Raw

from moltis import jsonrpc
from moltis.errors import RpcCode
from moltis.session import envelope
from moltis.session.attribution import Suspects, Verdict
from moltis.session.calls import Call, Caller, Calls
from moltis.session.hooks import Counters

RELAYED: Final = {"elicitation/create": "elicitation", "roots/list": "roots", "sampling/createMessage": "sampling"}
"""What a server may ask of a host, each with the capability that declares it and the key of moltis.toml."""

UNDECIDED_SECS: Final = 10.0
"""How long a question waits until it is certain whose it is."""

GIVEN_UP_SECS: Final = 10.0
"""How long a call that was cancelled, or timed out, may still be what a server asks about. Not longer than a question
waits, so that none is refused only because somebody gave up another call."""

READ_GRACE_SECS: Final = 0.1
"""The same, once the server has answered a request that was sent after the cancellation: it has read that by then, and
what it said before is here."""

MAX_OPEN: Final = 256
"""Questions of one server that nobody has answered yet."""
MAX_GIVEN_UP: Final = 1024

NOT_ASKED_FOR: Final = "no call is under way that this could be about"
NO_ONE_TO_ASK: Final = "the client whose call this is about cannot be asked"
CANNOT_TELL: Final = "several clients have calls under way here, and nothing says which of them this is about"
CALL_IS_OVER: Final = "the call that this is about is over"
TOO_MANY: Final = f"{MAX_OPEN} questions of this server have no answer yet"


class Line(Protocol):
    """The dialogue, as far as it is needed here."""

    counters: Counters

    def write(self, message: bytes) -> None:
        """Answer a request of the server."""

    def tell(self, method: str, params: bytes = b"") -> None:
        """Send a notification."""

    def due_by(self, instant: float) -> None:
        """Have `Questions.decide` called by then at the latest."""

    def sound(self) -> int:
        """Ask the server for a sign of life, unless one is on its way; give the id of the last request so far."""

    def faulted(self, fault: Exception) -> None:
        """Take note that a callback raised."""


class _Nobody:
    """Waits behind the calls of the control socket: a host that is told nothing and can be asked nothing."""

    @property
    def host(self) -> object:
        return self

    @property
    def kin(self) -> object:
        return self

    @property
    def seen(self) -> None:
        return None

    def can_answer(self, method: str, params: bytes) -> bool:
        return False

    def progressed(self, params: bytes) -> None:
        pass

    def notified(self, method: str, params: bytes) -> None:
        pass

    def asked(self, question: object) -> None:
        pass

    def withdrawn(self, question: object, params: bytes) -> None:
        pass


NOBODY: Final[Caller] = _Nobody()


class _GivenUp:
    """A call that is not waited for any more. last_id: of the last request before the server was told."""

    __slots__ = ("host", "kin", "last_id", "until")

    def __init__(self, caller: Caller, until: float, last_id: int) -> None:
        self.host = caller.host
        self.kin = caller.kin
        self.until = until
        self.last_id = last_id


class _Question:
    """One request of the server; fits `caller.Question`.

    suspects: the calls that it may be about. until: when it is refused if that is not certain by then.
    caller: whom it was put to; None while it waits. held: the calls whose idle time stands still for it.
    """

    __slots__ = ("_method", "_params", "_table", "caller", "held", "id", "suspects", "until")

    def __init__(
        self, table: Questions, id: bytes, method: str, params: bytes, suspects: Suspects, until: float
    ) -> None:
        self._table = table
        self.id = id
        self._method = method
        self._params = params
        self.suspects = suspects
        self.until = until
        self.caller: Caller | None = None
        self.held: list[int] = []

    @property
    def method(self) -> str:
        return self._method

    @property
    def params(self) -> bytes:
        return self._params

    def answer(self, result: bytes) -> None:
        self._table.settle(self, jsonrpc.result(self.id, result))

    def refuse(self, error: bytes) -> None:
        self._table.settle(self, jsonrpc.refusal(self.id, error))

    def tell(self, method: str, params: Raw) -> None:
        self._table.tell(self, method, bytes(params))


class Questions:
    """The questions of one server that have no answer yet.

    open: all of them, by the server's id (JSON).
    on_request: gives the result of a question that no caller is to answer, JSON, or None to refuse it.
    """

    def __init__(self, line: Line, calls: Calls, on_request: Callable[[str, bytes], bytes | None]) -> None:
        self.open: dict[bytes, _Question] = {}
        self._line = line
        self._calls = calls
        self._on_request = on_request
        self._given_up: dict[int, _GivenUp] = {}

    # --- what the server says

    def put(self, id: bytes, method: str, params: bytes, during: int | None, now: float) -> None:
        """Take a question. `during`: the call that it came with, if that is known."""
        if id in self.open:
            self._refuse(id, RpcCode.INVALID_REQUEST, "an unanswered request has this id")
        elif len(self.open) >= MAX_OPEN:
            self._refuse(id, RpcCode.INTERNAL_ERROR, TOO_MANY)
        else:
            question = _Question(self, id, method, params, self.suspects(during, now), now + UNDECIDED_SECS)
            self.open[id] = question
            self._decide(question)
            if question.caller is None and id in self.open:
                self._line.due_by(self.next_due())

    def cancelled(self, params: bytes) -> bool:
        """Take `notifications/cancelled`, and say whether it was about a question."""
        question = self.open.pop(envelope.cancelled_key(params), None)
        if question is None:
            return False
        self._release(question)
        self._withdraw(question, params)
        return True

    def fall_back(self, id: bytes, method: str, params: bytes, words: str) -> None:
        """Answer for those who cannot, or refuse with these words."""
        answer: bytes | None = None
        try:
            answer = self._on_request(method, params)
        except Exception as fault:
            self._line.faulted(fault)
        if answer is None:
            self._refuse(id, RpcCode.METHOD_NOT_FOUND, words)
        else:
            self._line.write(jsonrpc.result(id, answer))

    # --- what becomes of calls

    def suspects(self, during: int | None, now: float) -> Suspects:
        """Return the calls that something the server says now may be about."""
        if during is not None:
            call = self._calls.get(during)
            return Suspects(() if call is None or call.caller is None else [(call.id, call.caller.host)])
        callers = {call.id: call.caller for call in self._calls.asked_for() if call.caller is not None}
        hosts = [(id, caller.host) for id, caller in callers.items()]
        kin = {id: caller.kin for id, caller in callers.items()}
        if self._given_up:
            self._forget_given_up(now)
            hosts.extend((id, call.host) for id, call in self._given_up.items())
            kin.update((id, call.kin) for id, call in self._given_up.items())
        return Suspects(hosts, kin, tuple(self._given_up))

    def newest(self, suspects: Suspects) -> Caller | None:
        """Return who waits behind the last of these calls that is still waited for."""
        calls = self._live(suspects)
        return calls[-1].caller if calls else None

    def ended(self, id: int) -> None:
        """Take note that a call was answered, or will not be."""
        for question in list(self.open.values()):
            if question.suspects.strike(id):
                self._struck(question)

    def given_up(self, call: Call, now: float) -> None:
        """Take note that a call is not waited for any more, though the server may still be at it."""
        if call.caller is None:
            return
        while len(self._given_up) >= MAX_GIVEN_UP:
            self.answered_late(next(iter(self._given_up)))
        self._given_up[call.id] = _GivenUp(call.caller, now + GIVEN_UP_SECS, self._line.sound())
        for question in list(self.open.values()):
            suspects = question.suspects
            if suspects.give_up(call.id) if question.caller is None else suspects.strike(call.id):
                self._struck(question)
        self._line.due_by(self.next_due())

    def answered_late(self, id: int | None) -> None:
        """Take note of the reply to a call that was given up: the server is at it no more."""
        if id is not None and self._given_up.pop(id, None) is not None:
            self.ended(id)

    def answered(self, id: int | None, now: float) -> bool:
        """Take note of the reply to a request, while calls were given up: what was sent before it has been read.

        True: of some call that was given up this is not known yet.
        """
        unread = False
        for call in self._given_up.values():
            if call.until > now + READ_GRACE_SECS:
                if id is not None and id > call.last_id:
                    call.until = now + READ_GRACE_SECS
                else:
                    unread = True
        self._line.due_by(self.next_due())
        return unread

    @property
    def doubts(self) -> bool:
        """Whether there are calls that were given up and may still be what the server speaks about."""
        return bool(self._given_up)

    # --- time

    def next_due(self) -> float:
        """Return the earliest instant at which `decide` may have something to do; infinity when there is none."""
        waiting = (question.until for question in self.open.values() if question.caller is None)
        return min(*waiting, *(call.until for call in self._given_up.values()), math.inf, math.inf)

    def decide(self, now: float) -> None:
        """Refuse what has waited long enough, and strike off the calls that were given up long enough ago."""
        for id in self._forget_given_up(now):
            self.ended(id)
        for question in list(self.open.values()):
            if question.caller is None and question.until <= now and self._take(question):
                self._refuse(question.id, RpcCode.INTERNAL_ERROR, CANNOT_TELL)

    def close(self) -> None:
        """The connection is over: nobody's answer is wanted any more."""
        for question in list(self.open.values()):
            if self._take(question):
                self._withdraw(question, _cancelled(question.id, "the connection to the server is over"))

    # --- what `_Question` calls

    def settle(self, question: _Question, message: bytes) -> None:
        """Send the answer, if it is still wanted."""
        if self._take(question):
            self._line.write(message)

    def tell(self, question: _Question, method: str, params: bytes) -> None:
        """Say something about a question, if its answer is still wanted."""
        if self.open.get(question.id) is question:
            self._line.tell(method, params)

    # --- one question

    def _decide(self, question: _Question) -> None:
        """Put it to its host if it is certain who that is."""
        verdict = question.suspects.verdict
        if verdict is Verdict.OPEN:
            return
        live = self._live(question.suspects)
        able = [call for call in live if call.caller is not None and self._able(call.caller, question)]
        if not able:
            if self._take(question):
                words = _no_one(question.method) if verdict is Verdict.CERTAIN else NOT_ASKED_FOR
                self.fall_back(question.id, question.method, question.params, words)
            return
        busy = {id(other.caller) for other in self.open.values()}
        chosen = max(able, key=lambda call: (id(call.caller) not in busy, call.id))
        question.caller = caller = chosen.caller
        question.held = [call.id for call in live]
        for call in live:
            call.hold()
        assert caller is not None
        try:
            caller.asked(question)
        except Exception as fault:
            self._line.faulted(fault)
            if self._take(question):
                self._refuse(question.id, RpcCode.INTERNAL_ERROR, NO_ONE_TO_ASK)

    def _struck(self, question: _Question) -> None:
        """Look at a question anew, after a call that it may be about has ended."""
        if question.caller is None:
            self._decide(question)
        elif question.suspects.verdict is Verdict.NOBODYS and self._take(question):
            self._refuse(question.id, RpcCode.INTERNAL_ERROR, CALL_IS_OVER)
            self._withdraw(question, _cancelled(question.id, CALL_IS_OVER))

    def _live(self, suspects: Suspects) -> list[Call]:
        return [call for id in suspects.ids if (call := self._calls.get(id)) is not None]

    def _able(self, caller: Caller, question: _Question) -> bool:
        try:
            return caller.can_answer(question.method, question.params)
        except Exception as fault:
            self._line.faulted(fault)
            return False

    def _take(self, question: _Question) -> bool:
        if self.open.get(question.id) is not question:
            return False
        del self.open[question.id]
        self._release(question)
        return True

    def _release(self, question: _Question) -> None:
        if question.held:
            now = anyio.current_time()
            for call in (self._calls.get(id) for id in question.held):
                if call is not None:
                    call.resume(now)
                    self._line.due_by(call.due)
            question.held = []

    def _withdraw(self, question: _Question, params: bytes) -> None:
        if question.caller is not None:
            try:
                question.caller.withdrawn(question, params)
            except Exception as fault:
                self._line.faulted(fault)

    def _refuse(self, id: bytes, code: int, words: str) -> None:
        self._line.counters.refused_requests += 1
        self._line.write(jsonrpc.error(id, code, words))

    def _forget_given_up(self, now: float) -> list[int]:
        over = [id for id, call in self._given_up.items() if call.until <= now]
        for id in over:
            del self._given_up[id]
        return over


def _no_one(method: str) -> str:
    """Say that a host cannot be asked, and what has its server do without; a server's tool often shows these words."""
    return f'{NO_ONE_TO_ASK}; {RELAYED[method]} = "none" in its entry of moltis.toml tells it so beforehand'


def _cancelled(id: bytes, reason: str) -> bytes:
    return b'{"requestId":%b,"reason":%b}' % (id, jsonrpc.json_string(reason))
