"""One request on its way: what its server says meanwhile goes to its host, what its host answers to the server.

A relay is over exactly once: by its reply, or by being given up. After that nothing of it reaches the host, and every
question of the server that is still open has been refused. While it is *parked* it has no host: the one that called was
told to come back with answers, and whoever comes with the token goes on with it (`join`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import anyio
import msgspec
from msgspec import Raw

from moltis.errors import MoltisError, ServerNotReady, UsageError
from moltis.gateway import abilities, failures, levels, messages, rounds
from moltis.gateway.api import CallHandle, Outlet, Principal, ServerPort, Upstream, World
from moltis.gateway.messages import CAPABILITIES, CLIENT_INFO, LOG_LEVEL, Answer, Ask
from moltis.gateway.parking import Bond, Parking
from moltis.session.caller import Question
from moltis.session.calls import ErrorReply, Failed, Reply, Result
from moltis.session.envelope import json_string

__all__ = ["Desk", "HostSide", "OnRequest", "Relay"]

OnRequest = Callable[[str, str, str | None, float, str], None]
"""Method, server, tool (for `tools/call`), seconds, outcome of each request; for counting.

Outcomes are those of `failures.outcome_of`, and `cancelled` and `input_required`.
"""

MAX_WAITING: Final = 1024
"""Requests that wait for a server to start, of all servers."""

STARTING: Final = frozenset({"starting", "initializing"})

ELICIT: Final = "elicitation/create"
PROGRESS: Final = "notifications/progress"
LOG: Final = "notifications/message"

_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError)


class HostSide(Protocol):
    """What is asked of a host while a request of it is passed on. Nothing here blocks or raises."""

    @property
    def principal(self) -> Principal: ...

    @property
    def client_info(self) -> bytes:
        """Give `clientInfo` of its `initialize`, JSON; an object of ours if it sent none. Legacy hosts only."""

    @property
    def capabilities(self) -> bytes:
        """Give `capabilities` of its `initialize`, JSON; `{}` if it sent none. Legacy hosts only."""

    @property
    def log_level(self) -> str | None:
        """Give the level it set by `logging/setLevel`; None if it set none. Legacy hosts only."""

    def ask_host(self, method: str, params: bytes, outlet: Outlet, on_answer: Callable[[Answer], None]) -> int | None:
        """Send a legacy host a request on `outlet`, with an id of the host's own numbering.

        on_answer: called once with what the host answers; never after `take_back`, and not before this returns. When
            the host goes away it gets an `Answer` with an error.

        Returns:
            The id; None if there is no way, and then nothing is called.
        """

    def take_back(self, id: int, reason: bytes) -> None:
        """Tell the host that a question needs no answer any more (`notifications/cancelled`), on the question's outlet.

        reason: a JSON string, or empty. No effect once it is answered.
        """

    def done(self, id: bytes) -> None:
        """Learn that the request of this id has had its reply."""


class Desk:
    """What all relays share: who is parked, who waits, and which progress tokens stand for whose question.

    clock: measures durations, in seconds.
    """

    def __init__(self, world: World, on_request: OnRequest | None, clock: Callable[[], float]) -> None:
        self.world = world
        self.on_request = on_request
        self.clock = clock
        self.parking: Parking[Relay] = Parking()
        self.waiting: set[Relay] = set()
        self.tokens: dict[int, tuple[HostSide, Question, Raw]] = {}
        self._numbers = itertools.count(1)
        self._sweeping = False

    def number(self) -> int:
        """Give a number that was never given."""
        return next(self._numbers)

    def watch_parked(self) -> None:
        """See to it that parked calls are given up when their time is up."""
        if not self._sweeping:
            self._sweeping = True
            self.world.start(self._sweep)

    async def _sweep(self) -> None:
        try:
            while self.parking:
                await anyio.sleep_until(self.parking.next_due())
                for relay in self.parking.take_due(anyio.current_time()):
                    relay.expire()
        finally:
            self._sweeping = False


class _Open:
    """A question that has no answer yet.

    key: its name in a round. id: of our request to a legacy host. token: ours, for the progress of its answer.
    question: of a legacy server; None for one in a round of a modern server.
    """

    __slots__ = ("id", "key", "method", "params", "question", "token")

    def __init__(self, key: str, method: str, params: bytes, question: Question | None) -> None:
        self.key = key
        self.method = method
        self.params = params
        self.question = question
        self.id: int | None = None
        self.token: int | None = None


class _Talk:
    """What a relay needs once a question came up; most never do.

    rounds: how many there were. answers, state: of the round of a modern server that is going on.
    kept: the outcome that came while it was parked.
    """

    __slots__ = ("answers", "kept", "open", "questions", "rounds", "state")

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.questions = 0
        self.rounds = 0
        self.answers: dict[str, Raw] = {}
        self.state: Raw | None = None
        self.kept: Reply | None = None


class Relay:
    """One request on its way. Fits `session.caller.Caller`, and `forwarding.Running`.

    Parameters as for `Forwarding.begin`.
    """

    __slots__ = (
        "_ask",
        "_began",
        "_desk",
        "_handle",
        "_host",
        "_joining",
        "_looks",
        "_modern",
        "_name",
        "_outlet",
        "_over",
        "_params",
        "_port",
        "_scope",
        "_talk",
        "_to_modern",
        "_token",
        "_tool",
        "_view",
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
        self._over = False
        self._joining = False
        self._handle: CallHandle | None = None
        self._talk: _Talk | None = None
        self._token: str | None = None  # set while it is parked
        self._scope: anyio.CancelScope | None = None

    @property
    def waits_for_host(self) -> bool:
        """Whether its host has had an answer: the last one, or questions."""
        return self._over or self._token is not None

    # --- to the server

    def send(self) -> None:
        """Send the request, as soon as the server takes it."""
        upstream = self._port.upstream()
        if upstream is not None:
            self._forward(upstream)
        elif self._port.state() not in STARTING:
            self._finish(Failed(failures.not_ready(self._port.status())))
        elif len(self._desk.waiting) >= MAX_WAITING:
            self._finish(Failed(failures.still_starting(self._port.status(), 0)))
        else:
            self._wait(self._await_server)

    def _forward(self, upstream: Upstream) -> None:
        params, meta = self._params, self._ask.meta
        self._to_modern = upstream.agreed.era == "modern"
        if self._to_modern:
            meta = self._modern_meta(upstream)
        elif self._modern or self._talk is not None:
            if rounds.REQUEST_STATE in params:
                self._finish(Failed(failures.unknown_state(self._port.name)))
                return
            params = rounds.without_rounds(params)
        try:
            self._handle = upstream.forward(
                self._ask.method, params, meta, self._replied, caller=self, name=self._name, tool=self._tool
            )
        except MoltisError as error:
            self._finish(Failed(error))

    def _modern_meta(self, upstream: Upstream) -> dict[str, Raw]:
        """Say for a legacy host who it is and what it can, and that forms are answered if their defaults are."""
        meta = self._ask.meta
        by_default = upstream.default_answer(ELICIT, b"{}") is not None
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

    def _wait(self, work: Callable[[], object]) -> None:
        self._desk.waiting.add(self)
        self._desk.world.start(work)

    async def _await_server(self) -> None:
        secs = self._port.start_secs()
        settled = await self._unless_cancelled(partial(_within, secs, self._port.wait_settled))
        if self._over or settled is None:
            return
        if not settled:
            self._finish(Failed(failures.still_starting(self._port.status(), secs)))
        elif (upstream := self._port.upstream()) is not None:
            self._forward(upstream)
        else:
            self._finish(Failed(failures.not_ready(self._port.status())))

    async def _come_back(self, secs: float) -> None:
        if await self._unless_cancelled(partial(_within, secs, anyio.sleep_forever)) is not None and not self._over:
            self.send()

    async def _unless_cancelled(self, work: Callable[[], object]) -> bool | None:
        """Run what this relay waits for; None if it is given up meanwhile."""
        done: bool | None = None
        try:
            if not self._over:
                with anyio.CancelScope() as self._scope:
                    done = await work()  # type: ignore[misc]
        finally:
            self._scope = None
            self._desk.waiting.discard(self)
        return done

    # --- from the server

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

    def _finish(self, reply: Reply) -> None:
        self._over = True
        if self._talk is not None and self._talk.open:
            self._close_questions(failures.UNNEEDED)
        ask = self._ask
        if type(reply) is Result:
            raw = reply.raw
            if self._modern and not self._to_modern:
                raw = failures.completed(ask.method, raw)
            self._outlet.reply(messages.result(ask.id, raw))
        elif type(reply) is ErrorReply:
            self._outlet.reply(*failures.relayed(ask.id, reply.raw, modern=self._modern))
        elif type(reply) is Failed:
            self._outlet.reply(*failures.answered(ask.id, ask.method, reply.error, modern=self._modern))
        self._host.done(ask.id)
        if self._desk.on_request is not None:
            self._count(failures.outcome_of(reply))

    def _count(self, outcome: str) -> None:
        desk = self._desk
        if desk.on_request is not None:
            desk.on_request(self._ask.method, self._port.name, self._tool, desk.clock() - self._began, outcome)
