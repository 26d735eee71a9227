"""Start slots: how many servers may be starting at once, so that two hundred `npx` do not all start in one second.

Knows no server. A slot is given back when its server is ready or has failed, and after `HOLD_SECS` in any case.
"""

from __future__ import annotations

from collections import deque

import anyio

HOLD_SECS = 5.0
"""A server that hangs while starting must not hold up the others for its whole startup timeout; the burst of work at a
process start is over by then (`npx` with a warm cache takes 1 to 3 s)."""


class Slot:
    """One permission to start."""

    def __init__(self, slots: StartSlots, expires_at: float) -> None:
        self._slots = slots
        self.expires_at = expires_at

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._slots.discard(self)


class StartSlots:
    """First come, first served."""

    def __init__(self, limit: int, hold_secs: float = HOLD_SECS) -> None:
        self._limit = limit
        self._hold_secs = hold_secs
        self._held: deque[Slot] = deque()
        self._turn: anyio.Lock | None = None
        self._freed: anyio.Event | None = None

    async def acquire(self) -> Slot:
        """Wait for a slot: bounded, for every slot held expires. Cancelling gives up the place in the queue."""
        if self._turn is None:
            self._turn = anyio.Lock()
        async with self._turn:
            while len(self._held) >= self._limit:
                await self._wait_freed(self._held[0])
            slot = Slot(self, anyio.current_time() + self._hold_secs)
            self._held.append(slot)
            return slot

    async def _wait_freed(self, oldest: Slot) -> None:
        """Wait until some slot is given back, or the oldest expires and is taken back."""
        self._freed = anyio.Event()
        with anyio.move_on_at(oldest.expires_at):
            await self._freed.wait()
            return
        self.discard(oldest)

    def discard(self, slot: Slot) -> None:
        """Take a slot back, if it is still held."""
        if slot in self._held:
            self._held.remove(slot)
            self._wake()

    def resize(self, limit: int) -> None:
        """Change how many there are; slots held beyond the new limit run out by themselves."""
        self._limit = limit
        self._wake()

    def _wake(self) -> None:
        if self._freed is not None:
            self._freed.set()
