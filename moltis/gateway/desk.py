"""What all requests on their way share: who is parked, who waits for a server, whose progress token is whose."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import anyio

from moltis.errors import MoltisError
from moltis.gateway.api import Outlet, World
from moltis.gateway.asking import HostSide, Tokens
from moltis.gateway.messages import Ask
from moltis.gateway.parking import Bond, Parking

__all__ = ["MAX_WAITING", "Desk", "OnRequest"]

OnRequest = Callable[[str, str, str | None, float, str], None]
"""Method, server, tool (for `tools/call`), seconds, outcome of each request; for counting.

Outcomes are those of `failures.outcome_of`, and `cancelled` and `input_required`.
"""

MAX_WAITING: Final = 1024
"""Requests that wait for a server to start, or to be sent again; of one principal, and of all but who has few."""

TOKEN_BYTES: Final = 24
"""As random as an access token: who has it may answer in the name of its host."""


class Waiting(Protocol):
    """A request that a host waits for, and that no server works at."""

    @property
    def server(self) -> str: ...

    @property
    def principal(self) -> str: ...

    def abandon(self, error: MoltisError) -> None: ...


class Parked(Protocol):
    """A call that no host waits for now."""

    @property
    def owes_a_reply(self) -> bool: ...

    def cancel(self, reason: str = ...) -> None: ...

    def join(self, host: HostSide, ask: Ask, outlet: Outlet, answers: dict[str, bytes]) -> None: ...


class Desk:
    """One for the whole gateway. `clock`: measures durations, in seconds."""

    def __init__(self, world: World, on_request: OnRequest | None, clock: Callable[[], float]) -> None:
        self.world = world
        self.on_request = on_request
        self.clock = clock
        self.parking: Parking[Parked] = Parking(partial(secrets.token_urlsafe, TOKEN_BYTES))
        self.waiting: set[Waiting] = set()
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

    def park(self, call: Parked, bond: Bond) -> str | None:
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
