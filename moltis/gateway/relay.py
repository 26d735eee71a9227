"""One request on its way, with the questions that its server has meanwhile (`sampling`, `elicitation`, `roots`).

Who asks how, and what becomes of it:

    legacy server, legacy host   a request to the host, beside its own; its answer goes back
    modern server, legacy host   requests to the host; with the answers the request is sent again
    legacy server, modern host   the request is answered with the questions, and *parked*; the retry goes on with it
    modern server, modern host   passes as it is, unless the answers are given by `elicitation = "defaults"`

A question leaves exactly once, answered or refused; when the request is over, all that are open are refused.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio
import msgspec
from msgspec import Raw

from moltis import logs
from moltis.errors import RequestTimeout
from moltis.gateway import abilities, messages, rounds
from moltis.gateway.api import Outlet, ServerPort
from moltis.gateway.asking import HostSide, Open, OpenQuestions
from moltis.gateway.desk import Desk
from moltis.gateway.failures import NotAnswered
from moltis.gateway.messages import CAPABILITIES, Answer, Ask
from moltis.gateway.passage import Passage
from moltis.session.calls import Failed, Question, Reply
from moltis.session.envelope import json_string, read_error

__all__ = ["Relay"]

log = logs.get("moltis.gateway")

ANSWER_SECS: Final = 600.0
"""How long a legacy host may take over a round. A legacy server's question is bounded by the call that it is part of
(`request_timeout_max_secs`); a modern server does not wait."""

MAX_QUOTED_CHARS: Final = 500


class _Cancelled(msgspec.Struct):
    reason: str = ""


class Relay(Passage):
    """One request on its way. Fits `session.caller.Caller` and `forwarding.Running`."""

    __slots__ = ("_answers", "_joining", "_kept", "_open", "_state")

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
        super().__init__(desk, host, ask, outlet, port, params, name, tool, view)
        self._open: OpenQuestions | None = None  # most requests never have one

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


def _reason(params: bytes) -> bytes:
    """Give the reason in `notifications/cancelled` as a JSON string; nothing if there is none."""
    try:
        return json_string(msgspec.json.decode(params, type=_Cancelled).reason)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return b""
