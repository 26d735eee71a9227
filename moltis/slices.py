"""Long work in slices: no more than a few milliseconds in one turn of the event loop, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import anyio

__all__ = ["SLICE_SECS", "Slices"]

SLICE_SECS: Final = 0.005
"""A step that is under way then is finished all the same."""


class Slices:
    """The slices of one piece of work. `await rest()` after each step that takes well below a slice.

    clock: gives seconds; by default those that this thread worked, so that a machine that is busy makes no more slices.
    """

    __slots__ = ("_began", "_clock")

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._began = clock()

    async def rest(self) -> None:
        """Return at once within a slice; else after as long as it took, which is everybody else's."""
        took = self._clock() - self._began
        if took >= SLICE_SECS:
            await anyio.sleep(took)
            self._began = self._clock()
