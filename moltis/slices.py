"""Long work in slices: no more than a few milliseconds in one turn of the event loop, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import anyio

from moltis.steps import Steps

T = TypeVar("T")

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


async def in_slices(steps: Steps[T]) -> T:
    """Take steps in slices, and return what the last one found; whoever goes on with that has a slice of its own."""
    slices = Slices()
    while True:
        try:
            next(steps)
        except StopIteration as last:
            found: T = last.value
            await slices.rest()
            return found
        await slices.rest()


async def taken(said: bool | Steps[bool] | None) -> bool | None:
    """Return what a `transport.Receiver` said of a message, once it has taken it."""
    return said if said is None or isinstance(said, bool) else await in_slices(said)


class Sliced(Generic[T]):
    """The same for who is called back in each turn of the loop. `found`: once it is done."""

    __slots__ = ("_steps", "found")

    found: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps

    def is_done(self) -> bool:
        """Work for a slice, and return whether that was the last. To be called once in a turn, until it was."""
        until = time.thread_time() + SLICE_SECS
        while True:
            try:
                next(self._steps)
            except StopIteration as last:
                self.found = last.value
                return True
            if time.thread_time() >= until:
                return False
