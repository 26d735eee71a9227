"""Timers, futures and process descriptors on the running loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar


class Cancellable(Protocol):
    """Something under way on the loop that can be called off; calling it off twice is harmless."""

    def cancel(self) -> None: ...


def call_later(secs: float, callback: Callable[[], None]) -> Cancellable:
    """Call back once, `secs` seconds from now (0: as soon as the loop is free), unless cancelled before."""
    return asyncio.get_running_loop().call_later(max(0.0, secs), callback)


def now() -> float:
    """Return the loop's monotonic clock, in seconds; the same clock as `anyio.current_time()`."""
    return asyncio.get_running_loop().time()


def whole_second(moment: float, secs: float) -> float:
    """Return when it is about `secs` after `moment`: a whole second of the loop's clock, or exactly if below a second.

    So all that an idle daemon does now and then is done in one wake-up, which costs more than what it does in it.
    """
    return float(round(moment + secs)) if secs >= 1 else moment + secs


def call_about(secs: float, callback: Callable[[], None]) -> Cancellable:
    """Call back once, at the `whole_second` about `secs` from now, unless cancelled before."""
    moment = now()
    return call_later(whole_second(moment, secs) - moment, callback)


def clock() -> Callable[[], float] | None:
    """Return a function that tells what `now` tells, at a tenth of the cost; None on another loop than asyncio's."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return None


class PidWatch:
    """Watches one process; see `watch_pidfd`."""

    def __init__(self, pidfd: int, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = pidfd
        self._callback = callback
        self._loop.add_reader(pidfd, self._ready)

    def cancel(self) -> None:
        """Stop watching. Idempotent; no callback follows."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _ready(self) -> None:
        if self._fd >= 0:
            self.cancel()
            self._callback()


def watch_pidfd(pid: int, callback: Callable[[], None]) -> Cancellable | None:
    """Call back once when process `pid` has exited, child of ours or not (pidfd_open(2)).

    None where the system has no pidfds or that process is gone already.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return PidWatch(os.pidfd_open(pid), callback)
    except OSError:
        return None


T = TypeVar("T")


class Once(Generic[T]):
    """A future of the running loop: what `set` is first given is what `wait` gives.

    An `anyio.Event` costs a lock and a condition; this is on the path of every request. It works in tasks of anyio and
    in tasks that the loop itself has made.
    """

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    @property
    def is_set(self) -> bool:
        """Whether there is a value, or the one who waited was cancelled."""
        return self._future.done()

    def set(self, value: T) -> None:
        """Set the value. No effect the second time, or when nobody can wait any more."""
        if not self._future.done():
            self._future.set_result(value)

    def wait(self) -> Awaitable[T]:
        """Return what is to be awaited, by one task, once."""
        return self._future
