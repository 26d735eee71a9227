"""One value that somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Generic, TypeVar

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
        """Give the value. No effect the second time, or when nobody can wait any more."""
        if not self._future.done():
            self._future.set_result(value)

    def wait(self) -> Awaitable[T]:
        """Give what is to be awaited, by one task, once."""
        return self._future
