"""A stream of server-sent events (WHATWG HTML 9.2).

Whoever has something to send only leaves it here and never waits; the task of the HTTP request takes it from here, at
the pace of the one who reads. What waits for somebody who does not read is bounded; then they are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from moltis.httpd.asgi import Connection, Header, Send
from moltis.transport.wire.loop import Once

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
"""Of one stream. One message is always taken, whatever its size."""
MAX_OFFERED_BYTES: Final = 256 * 1024
"""The same, of what can wait elsewhere until there is room: a server that says much cuts nobody off."""
PULSE_SECS: Final = 7.5
PULSES_A_COMMENT: Final = 2
"""A stream on which nothing was sent gets a comment, so that nobody on the way takes it for dead (9.2.7)."""

COMMENT: Final = b": still here\n\n"
RETRY_SECS: Final = 3.0
"""When a reader is to open a stream again that has ended (9.2.6). The MCP SDKs of Python and TypeScript try twice, and
by themselves so soon that a daemon is not back by then whose servers took their time to end."""
RETRY: Final = b"retry: %d\n\n" % (RETRY_SECS * 1000)
EVENTS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class Flow:
    """Messages on their way into a stream of events.

    on_room: called when there is room again for what was offered in vain.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_frames",
        "_gone",
        "_on_room",
        "_once",
        "_quiet",
        "_turned_away",
        "_waiting_bytes",
    )

    def __init__(self, connection: Connection, on_room: Callable[[], None] | None = None) -> None:
        self._connection = connection
        self._on_room = on_room
        self._turned_away = False
        self._frames: list[bytes] = []
        self._waiting_bytes = 0
        self._once: Once[None] | None = None
        self._gone = False
        self._ended = False
        self._quiet = 0

    @property
    def is_open(self) -> bool:
        """Whether anything can still be sent."""
        return not (self._ended or self._gone)

    def push(self, message: bytes) -> bool:
        """Send a message, one line; False if that cannot be done any more."""
        if self._ended or self._gone:
            return False
        if self._frames and self._waiting_bytes + len(message) > MAX_WAITING_BYTES:
            self.cut()
            return False
        self._frames.append(b"event: message\ndata: %b\n\n" % message)
        self._waiting_bytes += len(message)
        self._wake()
        return True

    def offer(self, message: bytes) -> bool:
        """Send a message if there is room for it now; what is not taken is not lost, for the caller keeps it."""
        if self._frames and self._waiting_bytes + len(message) > MAX_OFFERED_BYTES:
            self._turned_away = True
            return False
        return self.push(message)

    def say_when_to_return(self) -> None:
        """Tell the reader when to open this stream again, should it end: to be called first of all."""
        self._frames.append(RETRY)

    def pulse(self) -> None:
        """Let time pass, `PULSE_SECS` of it."""
        self._quiet += 1
        if self._quiet >= PULSES_A_COMMENT and not self._frames and self.is_open:
            self._frames.append(COMMENT)
            self._wake()

    def end(self) -> None:
        """Send what waits, then end the stream. Idempotent."""
        self._ended = True
        self._wake()

    def lost(self) -> None:
        """Learn that there is no way to the host any more. Idempotent."""
        self._gone = True
        self._frames.clear()
        self._wake()

    def cut(self) -> None:
        """Give up a host that does not read."""
        self.lost()
        self._connection.abort()

    async def stream(self, send: Send, headers: Iterable[Header]) -> None:
        """Send events until the end, or until the connection is lost."""
        self._connection.watch(self.lost)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [*EVENTS, *headers]})
            while not self._gone:
                if self._frames:
                    body = b"".join(self._frames)
                    self._frames.clear()
                    self._waiting_bytes = self._quiet = 0
                    last = self._last_frame()
                    if last is not None:
                        await send({"type": "http.response.body", "body": body + last})
                        return
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    if self._turned_away and self._on_room is not None:
                        self._turned_away = False
                        self._on_room()
                elif (last := self._last_frame()) is not None:
                    await send({"type": "http.response.body", "body": last})
                    return
                else:
                    await self._sleep()
        finally:
            self._gone = True
            self._connection.unwatch(self.lost)

    def _last_frame(self) -> bytes | None:
        """Return what ends the stream; None while it goes on."""
        return b"" if self._ended else None

    def _wake(self) -> None:
        if self._once is not None:
            self._once.set(None)

    async def _sleep(self) -> None:
        self._once = Once()
        try:
            await self._once.wait()
        finally:
            self._once = None
