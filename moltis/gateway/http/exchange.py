"""The way back to a host: one body of JSON, or a stream of server-sent events (WHATWG HTML 9.2).

Whoever has something to send only leaves it here and never waits; the task of the HTTP request takes it from here, at
the pace of the one who reads. The one rule: what waits for a host that does not read is bounded, then it is cut off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from moltis.errors import RpcCode
from moltis.gateway import messages
from moltis.transport.wire.once import Once

__all__ = [
    "CLOSING",
    "CONNECTION",
    "EVENTS",
    "JSON",
    "MAX_WAITING_BYTES",
    "PULSE_SECS",
    "Connection",
    "Exchange",
    "Flow",
    "Header",
    "Send",
    "respond",
]

Send = Callable[[dict[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

CONNECTION: Final = "moltis.connection"
"""The member of a request's scope (ASGI 3.0) that is the `Connection` it came by."""

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
"""Of one stream, ahead of the reply. One message is always taken, whatever its size."""
MAX_OFFERED_BYTES: Final = 256 * 1024
"""The same, of what can wait elsewhere until there is room: a server that says much cuts nobody off."""
PULSE_SECS: Final = 7.5
PULSES_A_COMMENT: Final = 2
"""A stream on which nothing was sent gets a comment, so that nobody on the way takes it for dead (9.2.7)."""

GIVEN_UP: Final = "this request was given up: its session has ended, or the gateway is stopping"
COMMENT: Final = b": still here\n\n"
JSON: Final = (b"content-type", b"application/json")
EVENTS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
CLOSING: Final = (b"connection", b"close")


class Connection(Protocol):
    """The connection that a request came by. `principal`: the name of who was let in last by it; None: nobody yet."""

    principal: str | None

    def watch(self, lost: Callable[[], None]) -> None:
        """Call back once when it is lost; at once if it is lost already."""

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Do not call back. Idempotent."""

    def abort(self) -> None:
        """Cut it off; what is queued is dropped, and it is lost."""


async def respond(send: Send, status: int, headers: Iterable[Header], body: bytes = b"") -> None:
    """Answer with a body of known length. `headers` without its length, which a 204 has not (RFC 9110 8.6)."""
    length = () if status == 204 else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})


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
        """Give what ends the stream; None while it goes on."""
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


class Exchange(Flow):
    """One request of a host, fitting `Outlet`. It becomes a stream only if something comes ahead of the reply.

    streams: whether the host takes a stream. plain: whether it takes a body of JSON.
    asks: whether it could answer a request of ours, which takes a session.
    """

    __slots__ = ("_asks", "_plain", "_reply", "_status", "_streams", "id")

    def __init__(self, connection: Connection, id: bytes, *, streams: bool, plain: bool, asks: bool) -> None:
        super().__init__(connection)
        self.id = id
        self._streams = streams
        self._plain = plain
        self._asks = asks
        self._reply: bytes | None = None
        self._status = 200

    @property
    def outcome(self) -> bytes | None:
        """The reply, once there is one."""
        return self._reply

    def end(self) -> None:
        """Reply that there will be no reply, unless there is one."""
        self.reply(messages.error(self.id, RpcCode.INTERNAL_ERROR, GIVEN_UP))

    def tell(self, message: bytes) -> bool:
        """See `Outlet`."""
        return self._streams and self.push(message)

    def can_ask(self) -> bool:
        """See `Outlet`."""
        return self._asks and self._streams and self.is_open

    def reply(self, message: bytes, status: int = 200) -> None:
        """See `Outlet`."""
        if not self._ended:
            self._ended = True
            self._reply = message
            self._status = status
            self._wake()

    def pulse(self) -> None:
        if self._streams:
            super().pulse()

    async def settle(self) -> bool:
        """Wait until it is clear what the answer is: JSON, or a stream. False if nobody is there to be answered."""
        while not (self._frames or self._ended or self._gone):
            await self._sleep()
        return not self._gone

    async def deliver(self, send: Send, headers: Iterable[Header]) -> None:
        """Send the answer, to its end; after `settle`, or once there is a reply."""
        if self._reply is None or self._frames or not self._plain:
            await self.stream(send, headers)
            return
        start = [JSON, (b"content-length", b"%d" % len(self._reply)), *headers]
        await send({"type": "http.response.start", "status": self._status, "headers": start})
        await send({"type": "http.response.body", "body": self._reply})

    def _last_frame(self) -> bytes | None:
        return None if self._reply is None else b"event: message\ndata: %b\n\n" % self._reply
