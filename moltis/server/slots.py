"""Start slots: how many servers may be starting at once, so that two hundred `npx` do not all start in one second.

Knows no server. A start keeps its slot for as long as it works, and gives it back when its server is ready or has
failed. One that shows no work gives its slot away meanwhile, for a server that hangs must not hold up the others; but
if it works again it counts again, so that those who work at the same time stay within the limit.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio

QUIET_SECS = 5.0
"""A start that has shown no work for so long may give its slot away."""

GIVE_EVERY_SECS = 5.0
"""At most one slot of a local start is given away in this time: on a machine so loaded that good starts get nowhere,
more of them would make it worse."""

SILENT_SECS = 15.0
"""A start that has shown no work for so long gives its slot away however many others just did: it costs nothing."""


class Slot:
    """One permission to start.

    loads: whether what starts by it can load this machine; a remote server cannot.
    worked_at: when it was given, or when its start last showed work; in seconds.
    """

    def __init__(self, slots: StartSlots, now: float, loads: bool) -> None:
        self._slots = slots
        self.loads = loads
        self.worked_at = now
        self._released = False

    def worked(self, now: float) -> None:
        """Take note that the start has shown work: it counts, even if its slot had been given away."""
        if not self._released:
            self.worked_at = now
            self._slots.hold(self)

    def release(self) -> None:
        """Give it back for good. Idempotent."""
        self._released = True
        self._slots.discard(self)


async def at_once() -> None:
    """Wait for nothing."""


class StartSlots:
    """First come, first served.

    quiet_secs: after how long without work a slot may be given away.
    clear: waits until what starts on this machine may; a start is only then given a slot, and its time begins.
    """

    def __init__(
        self, limit: int, quiet_secs: float = QUIET_SECS, *, clear: Callable[[], Awaitable[None]] = at_once
    ) -> None:
        self._limit = limit
        self._clear = clear
        self._quiet_secs = quiet_secs
        self._silent_secs = max(quiet_secs, SILENT_SECS)
        self._held: list[Slot] = []
        self._given_at = -math.inf
        self._turn: anyio.Lock | None = None
        self._freed: anyio.Event | None = None

    async def acquire(self, *, loads: bool = True) -> Slot:
        """Wait for a slot. Cancelling gives up the place in the queue."""
        if loads:
            await self._clear()
        if self._turn is None:
            self._turn = anyio.Lock()
        async with self._turn:
            while len(self._held) >= self._limit:
                await self._wait_freed()
            slot = Slot(self, anyio.current_time(), loads)
            self._held.append(slot)
            return slot

    async def _wait_freed(self) -> None:
        """Wait until some slot is given back, or one may be given away: that is then done."""
        self._freed = anyio.Event()
        quietest = min(self._held, key=self._free_at)
        with anyio.move_on_at(self._free_at(quietest)):
            await self._freed.wait()
            return
        if quietest in self._held and self._free_at(quietest) <= anyio.current_time():
            if quietest.loads:
                self._given_at = anyio.current_time()
            self._held.remove(quietest)

    def _free_at(self, slot: Slot) -> float:
        """Return when a slot may be given away, if its start shows no more work."""
        at = slot.worked_at + self._quiet_secs
        if not slot.loads:
            return at
        return min(max(at, self._given_at + GIVE_EVERY_SECS), slot.worked_at + self._silent_secs)

    def hold(self, slot: Slot) -> None:
        """Count a slot that had been given away, beyond the limit if need be."""
        if slot not in self._held:
            self._held.append(slot)

    def discard(self, slot: Slot) -> None:
        """Take a slot back, if it is still held."""
        if slot in self._held:
            self._held.remove(slot)
            self._wake()

    def resize(self, limit: int) -> None:
        """Change how many there are. Whoever starts beyond a smaller limit goes on; nobody else begins meanwhile."""
        self._limit = limit
        self._wake()

    def _wake(self) -> None:
        if self._freed is not None:
            self._freed.set()
