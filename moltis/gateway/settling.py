"""A short wait for servers that are starting for the first time, so that a host hears of them and not of nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

__all__ = ["SETTLE_SECS", "Settling"]

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
