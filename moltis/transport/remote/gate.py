"""How long a server wants to be left alone (`Retry-After`): until then nothing is sent to it."""

from __future__ import annotations

from typing import Final

import anyio

MAX_HELD_SECS: Final = 3600.0
"""Who asks for more gets this: a typing mistake of a server must not cost a day."""


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

    async def wait(self) -> None:
        """Wait until it is open."""
        while self.closed:  # noqa: ASYNC110 - it may be closed for longer meanwhile
            await anyio.sleep_until(self._opens_at)
