"""A short wait for a server that is starting for the first time, so that its host hears of it and not of nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from moltis.gateway.api import ServerPort

__all__ = ["SETTLE_SECS", "Settling"]

SETTLE_SECS: Final = 10.0
"""Hosts give `initialize` 30 to 60 s; most servers are up within 6, and the rest is told by `list_changed`."""


class Settling:
    """Calls `then` when the server is no longer starting, or after `SETTLE_SECS`; not when it is cancelled before."""

    def __init__(self, port: ServerPort, then: Callable[[], None]) -> None:
        self._port = port
        self._then = then
        self._scope: anyio.CancelScope | None = None
        self._given_up = False

    async def run(self) -> None:
        """Wait."""
        if self._given_up:
            return
        with anyio.move_on_after(SETTLE_SECS) as self._scope:
            await self._port.wait_settled()
        if not self._given_up:
            self._then()

    def cancel(self, reason: str = "") -> None:
        """Wait no longer, for nothing."""
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel()
