"""How long a server wants to be left alone (`Retry-After`): until then nothing is sent to it."""

from __future__ import annotations

import math
from typing import Final

import anyio

__all__ = ["MAX_HELD_SECS", "Gate", "HeldBack"]

MAX_HELD_SECS: Final = 3600.0
"""Who asks for more gets this: a typing mistake of a server must not cost a day."""
LOOK_SECS: Final = 1.0
"""How often it is seen whether the gate was closed meanwhile, while something else is waited for."""


class HeldBack(Exception):
    """The gate opens later than somebody wants to wait. Nothing was sent.

    secs: until it opens. words: follow the server's name.
    """

    def __init__(self, secs: float) -> None:
        self.secs = secs
        self.words = f"is overloaded and wants to be left alone for {math.ceil(secs)} s more"
        super().__init__(self.words)


class Gate:
    """Open, until it is closed for a while. Waiting ends when it opens, and not before."""

    def __init__(self) -> None:
        self._opens_at = 0.0

    def close(self, secs: float) -> None:
        """Let nothing pass for so long, or for longer if that was said before."""
        self._opens_at = max(self._opens_at, anyio.current_time() + min(secs, MAX_HELD_SECS))

    @property
    def closed(self) -> bool:
        """Whether it is closed now. Never so for a gate that was never closed."""
        return self._opens_at > 0.0 and anyio.current_time() < self._opens_at

    def check(self, patience_secs: float) -> None:
        """Look whether it is open, or opens soon enough.

        Raises:
            HeldBack: it stays closed for longer than `patience_secs`.
        """
        if self.closed and (secs := self._opens_at - anyio.current_time()) > patience_secs:
            raise HeldBack(secs)

    async def wait(self, patience_secs: float = math.inf) -> None:
        """Wait until it is open.

        Raises:
            HeldBack: it stays closed for longer than `patience_secs` from now.
        """
        until = anyio.current_time() + patience_secs
        while self.closed:
            self.check(until - anyio.current_time())
            await anyio.sleep_until(self._opens_at)  # it may be closed for longer meanwhile

    async def wait_beside(self, event: anyio.Event, patience_secs: float) -> None:
        """Wait for an event that may itself have to wait for the gate.

        Raises:
            HeldBack: it is closed now, and for longer than `patience_secs`.
        """
        while not event.is_set():
            self.check(patience_secs)
            with anyio.move_on_after(LOOK_SECS):
                await event.wait()
