"""The way back of one request of a host: a body of JSON, or a stream of events if something comes before the reply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from moltis.errors import RpcCode
from moltis.gateway import messages
from moltis.httpd.asgi import JSON, Connection, Header, Send
from moltis.httpd.events import Flow

GIVEN_UP: Final = "this request was given up: its session has ended, or the gateway is stopping"


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
