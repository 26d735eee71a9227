"""What goes to a host and belongs to no request of it: sent now, or kept until there is a way. In order, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_KEPT", "MAX_KEPT_BYTES", "Outbox"]

MAX_KEPT: Final = 64
"""Of messages to a host that has no stream open. What happened meanwhile it asks for when it is back."""

MAX_KEPT_BYTES: Final = 256 * 1024
"""The same, in bytes: a server's log message may be as long as any message, and every host that sees it keeps it."""


class Outbox:
    """Messages of one host, each one line. `send` says whether there was a way.

    held: nothing is sent before the host has said that it is ready (MCP, Lifecycle), however open the way is.
    """

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send
        self._kept: deque[tuple[bytes, bool]] = deque()
        self._kept_bytes = 0
        self.held = True

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def put(self, message: bytes, *, once: bool = False) -> None:
        """Send a message after those that are kept. `once`: one of these among the kept says it all.

        When there are too many, the first of those that say something only once (a log message) is given up.
        """
        if not self.held and not self._kept and self._send(message):
            return
        if once and (message, True) in self._kept:
            return
        if len(message) > MAX_KEPT_BYTES:
            return
        while len(self._kept) >= MAX_KEPT or self._kept_bytes + len(message) > MAX_KEPT_BYTES:
            least = next((kept for kept in self._kept if not kept[1]), self._kept[0])
            self._kept.remove(least)
            self._kept_bytes -= len(least[0])
        self._kept.append((message, once))
        self._kept_bytes += len(message)

    def flush(self) -> None:
        """Send what is kept, as far as there is a way."""
        while self._kept and not self.held:
            if not self._send(self._kept[0][0]):
                return
            if self._kept:
                self._kept_bytes -= len(self._kept.popleft()[0])

    def clear(self) -> None:
        """Forget what is kept."""
        self._kept.clear()
        self._kept_bytes = 0
