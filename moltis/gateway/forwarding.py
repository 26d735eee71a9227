"""Requests passed on to servers, and their answers passed back, whatever the eras of the two.

`relay` is one request on its way, `asking` and `rounds` are the questions of servers, `parking` those who wait for an
answer without a host, `failures` what hosts are told when there is none. A request that is answered without a question
costs one relay: no task, no timer, no entry in a table of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import anyio
from msgspec import Raw

from moltis.errors import MoltisError, ServerNotReady
from moltis.gateway import failures, rounds
from moltis.gateway.api import Outlet, ServerPort, World
from moltis.gateway.asking import HostSide
from moltis.gateway.messages import Ask, text_of
from moltis.gateway.parking import Bond
from moltis.gateway.relay import Desk, OnRequest, Relay
from moltis.server.states import State


class Running(Protocol):
    """A request on its way."""

    def cancel(self, reason: str = ...) -> None:
        """Give it up: the server is told, no reply follows, and `HostSide.done` is not called. Idempotent."""


class Forwarding:
    """Passes requests on. One for the whole gateway.

    on_request: hears of every request once it has had its reply, or was cancelled. It must not raise.
    clock: measures durations, in seconds.
    """

    def __init__(
        self, world: World, on_request: OnRequest | None = None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._desk = Desk(world, on_request, clock)

    def begin(
        self,
        host: HostSide,
        ask: Ask,
        outlet: Outlet,
        port: ServerPort,
        *,
        params: dict[str, Raw],
        name: str | None = None,
        tool: str | None = None,
        view: str = "",
    ) -> Running | None:
        """Pass a request on; the reply goes to `outlet`, in the host's era (`ask.is_modern`).

        params: as the server is to see them (its own names), without `_meta`.
        name: what it is about (`params.name` or `params.uri`, the server's own), where there is such a thing.
        tool: the tool's own name, for `tools/call`.
        view: where it came in; a call that waits for an answer is only given on to the same view.

        Returns:
            What to cancel it by; None if it has had its reply already (`HostSide.done` was called then, too).
        """
        if rounds.REQUEST_STATE in params and ask.is_modern:
            state = text_of(params, rounds.REQUEST_STATE)
            if state is not None and state in self._desk.parking:
                bond = self._desk.bond(host, view, port.name, ask.method, name)
                return self._resume(host, ask, outlet, state, bond, rounds.responses(params))
            if state == rounds.VISIT:
                if not rounds.accepts_all(params):
                    self._refuse(host, ask, outlet, failures.NotVisited(port.name))
                    return None
                params = rounds.without_rounds(params)
        relay = Relay(self._desk, host, ask, outlet, port, params, name, tool, view)
        relay.send()
        return relay if relay.owes_a_reply else None

    def _resume(
        self, host: HostSide, ask: Ask, outlet: Outlet, token: str, bond: Bond, answers: dict[str, bytes]
    ) -> Running | None:
        """Go on with a parked call. A token of somebody else, or of another call, stands for nothing."""
        parked = self._desk.parking.take(token, bond, anyio.current_time())
        if parked is None:
            self._refuse(host, ask, outlet, failures.StateUnknown(bond.server))
            return None
        parked.join(host, ask, outlet, answers)
        return parked if parked.owes_a_reply else None

    @staticmethod
    def _refuse(host: HostSide, ask: Ask, outlet: Outlet, error: MoltisError) -> None:
        host.done(ask.id)
        outlet.reply(*failures.answered(ask.id, ask.method, error, modern=True))

    def host_progressed(self, host: HostSide, params: dict[str, Raw]) -> None:
        """Take `notifications/progress` of a legacy host: how far it is with a question. Others' are ignored."""
        self._desk.tokens.progressed(host, params)

    @property
    def parked(self) -> int:
        """How many calls wait for a host to come back with answers."""
        return len(self._desk.parking)

    def give_up(self, principal: str) -> None:
        """Give up the calls that wait for a host of this principal to come back: it may not any more."""
        for parked in self._desk.parking.take_of(principal):
            parked.cancel("the access token of its host is not valid any more")

    def close(self, reason: str) -> None:
        """Give up what waits: for a host to come back, or for a server to start. What servers work at goes on."""
        for parked in self._desk.parking.take_all():
            parked.cancel(reason)
        for waiting in tuple(self._desk.waiting):
            told = f"moltis is going away: {reason}"
            waiting.abandon(ServerNotReady(told, server=waiting.server, state=State.STOPPING))
