"""Short waits of hosts for servers, each bounded: to start for the first time, so that a host hears of them and not of
nothing; and to acknowledge what is wanted of them, for an acknowledgement is worth what the server's is.

Level-triggered: each server is asked whether it has taken what was last wanted of it, and looked at again when
something has changed. One that is not ready, or is gone, is not waited for; what it missed is told when it is back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio

from moltis.gateway.api import ServerPort, Upstream
from moltis.session.wishes import Wish

TAKING_SECS: Final = 5.0
"""Then the host is answered all the same: a server that acknowledges nothing must not hang it."""

Refused = dict[tuple[str, Wish], bytes]
"""What servers have refused, by their names, with their own errors."""


class Taking:
    """Calls `then` with what was refused, once all has been taken, or after `TAKING_SECS`; not when it is cancelled."""

    def __init__(self, wishes: Iterable[tuple[ServerPort, Wish]], then: Callable[[Refused], None]) -> None:
        self._then = then
        self._refused: Refused = {}
        self._left: list[tuple[ServerPort, Upstream, Wish]] = []
        for port, wish in wishes:
            upstream = port.upstream()
            if upstream is not None:
                self._left.append((port, upstream, wish))
        self._scope: anyio.CancelScope | None = None
        self._given_up = False

    def look(self) -> bool:
        """Return whether nothing is waited for any more; `then` is to be called at once in that case."""
        while self._left:
            if not self._is_settled(*self._left[-1]):
                return False
            self._left.pop()
        return True

    def finish(self) -> None:
        """Wait no longer, and say what is known."""
        for entry in self._left:
            self._is_settled(*entry)
        self._then(self._refused)

    async def run(self) -> None:
        """Wait. All servers have been told already: that one is waited for after the other takes no longer."""
        if self._given_up:
            return
        with anyio.move_on_after(TAKING_SECS) as self._scope:
            while not self.look():
                await self._left[-1][1].wait_taken()
        if not self._given_up:
            self.finish()

    def cancel(self, reason: str = "") -> None:
        """Wait no longer, for nothing."""
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()

    def _is_settled(self, port: ServerPort, upstream: Upstream, wish: Wish) -> bool:
        if port.upstream() is not upstream:
            return True
        taken = upstream.taken(wish)
        if isinstance(taken, bytes):
            self._refused[port.name, wish] = taken
            return True
        return taken


SETTLE_SECS: Final = 10.0
"""For an only server. Hosts give `initialize` 30 to 60 s; most servers are up within 6, and the rest is told by
`list_changed`."""


class Settling:
    """Calls `then` when all waits are over, or after `secs`; not when it is cancelled before."""

    def __init__(self, waits: Sequence[Callable[[], Awaitable[None]]], secs: float, then: Callable[[], None]) -> None:
        self._waits = waits
        self._secs = secs
        self._then = then
        self._scope: anyio.CancelScope | None = None
        self._given_up = False

    async def run(self) -> None:
        """Wait."""
        if self._given_up:
            return
        with anyio.move_on_after(self._secs) as self._scope:
            for wait in self._waits:
                await wait()
        if not self._given_up:
            self._then()

    def cancel(self, reason: str = "") -> None:
        """Wait no longer, for nothing."""
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()
