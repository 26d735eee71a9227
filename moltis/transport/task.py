"""A connection that is a task of ours, and no process: how it lives, how it ends, and what it has nothing to say of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Final

import anyio

from moltis.server.states import FailureKind
from moltis.transport import Effort, Ended

CLOSE_SECS: Final = 1.0
"""For closing what is open, or for a server to put away what it holds."""


class WithoutProcess:
    """What a `transport.Connection` says that has no process behind it."""

    pid: int | None = None
    stderr_at: float = -math.inf
    has_read: bool = True

    def stderr_tail(self) -> tuple[str, ...]:
        """Return nothing: what such a server complains of is not heard here."""
        return ()

    def effort(self) -> Effort:
        """Return nothing: a connection being opened costs nothing here, and what the server does is not seen."""
        return Effort()

    def hurry(self) -> None:
        """Do nothing: there is no process to be told, and it is ending as fast as it can."""


class TaskConnection(WithoutProcess, ABC):
    """A connection that lives while `run` runs in a task: lost when no answer can come, closed when nothing is left."""

    def __init__(self) -> None:
        self._life = anyio.CancelScope()
        self._ended: Ended | None = None
        self._lost = anyio.Event()
        self._closed = anyio.Event()

    @abstractmethod
    async def _live(self) -> None:
        """Do all there is to do, until it is stopped, killed or lost."""

    @abstractmethod
    def _end(self, ended: Ended, *, waits: bool = False) -> None:
        """Have `_live` return; the first reason holds. `waits`: what is on its way may finish."""

    @abstractmethod
    async def _close(self) -> None:
        """Close what is open; cut off after `CLOSE_SECS`."""

    def kill(self) -> None:
        """End it now, without a goodbye."""
        self._end(Ended(FailureKind.DISCONNECTED, "it was ended"))
        self._life.cancel()

    async def wait_lost(self) -> Ended:
        """Wait until no answer can come any more."""
        await self._lost.wait()
        assert self._ended is not None
        return self._ended

    async def wait_closed(self) -> Ended:
        """Wait until nothing of it is open. May be waited for by many, and again."""
        await self._closed.wait()
        assert self._ended is not None
        return self._ended

    async def run(self) -> None:
        """Live, until it is stopped, killed or lost. Never raises; being cancelled kills it."""
        try:
            with self._life:
                await self._live()
        except Exception as fault:
            self._ended = Ended(FailureKind.INTERNAL, f"a fault of moltis: {fault_words(fault)}")
        finally:
            self._end(Ended(FailureKind.DISCONNECTED, "it was ended"))
            self._lost.set()
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_SECS):
                try:
                    await self._close()
                except Exception:
                    pass  # what cannot even be closed well is used no more
            self._closed.set()


def fault_words(fault: Exception) -> str:
    """Return the name of a fault; of a group, of the first in it."""
    while isinstance(fault, ExceptionGroup):
        fault = fault.exceptions[0]
    return type(fault).__name__
