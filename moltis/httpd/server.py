"""uvicorn as a part of a daemon: it serves sockets that are bound already, and leaves signals, logs and clocks alone.

Its own main loop wakes ten times a second, which is all the processor time an idle daemon would use; here it waits.
Whatever a client does or fails to do, its connection does not stay for ever. It has a time to say what it wants, a time
to take what it is given, and, when there are too many connections, the ones that are idle make room.

This module is what imports uvicorn, and importing it costs some tens of milliseconds: `listener` does so after it
listens.
"""

from __future__ import annotations

import enum
import logging
import re
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from moltis.httpd.asgi import CONNECTION
from moltis.transport.wire import Cancellable, TcpListener, call_later
from moltis.transport.wire.loop import Once

JOIN_BYTES: Final = 64 * 1024
"""A longer body is not copied for it."""

BODILESS: Final = (b"204", b"304")
"""Statuses whose answer is its head alone, as every answer to HEAD is (RFC 9110 6.4.1): no second write is sure."""


class Joining:
    """The transport of one response, as uvicorn's cycle uses it; one of unknown length is written as it comes."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: Any, cycle: Any) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write; of a response whose length is known, the head together with what follows it."""
        cycle = self._cycle
        if cycle is not None and cycle.response_started:
            self._cycle = None  # it knows us too, and holds the request's body
            if cycle.chunked_encoding is False and cycle.scope["method"] != "HEAD" and data[9:12] not in BODILESS:
                self._head = data
                return
        head = self._head
        if head:
            self._head = b""
            if len(data) <= JOIN_BYTES:
                data = head + data
            else:
                self._transport.write(head)
        self._transport.write(data)

    def close(self) -> None:
        """Close, once everything is written."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed or closing."""
        return bool(self._transport.is_closing())


KEEP_ALIVE_SECS: Final = 75
"""An idle connection. Hosts close theirs earlier, and so do not send into one that is being closed."""
READ_SECS: Final = 60.0
"""From the first byte of a request, or the connection's beginning, to the request's last byte."""
STUCK_SECS: Final = 60.0
"""In which a client that is owed something must have taken some of it."""
A_ROOM: Final = 64
"""One of so many connections is closed where there are too many, at least one."""
MAX_HEADER_BYTES: Final = 64 * 1024
FRAMING_A_BYTE: Final = 8
"""Of a body in chunks, for each byte of it: chunks of one byte take five, and what is more is no message."""
BAD: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n"
TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOO_LONG: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_HOP_BY_HOP: Final = frozenset({b"connection", b"http2-settings", b"upgrade"})


class _State(ServerState):
    def __init__(self, owner: HttpServer) -> None:
        super().__init__()
        self.owner = owner


class HttpServer(Server):
    """Serves an ASGI application. `on_shortage`: as in `wire.Acceptor`."""

    read_secs = READ_SECS
    stuck_secs = STUCK_SECS

    def __init__(self, app: Any, *, max_connections: int, on_shortage: Callable[[OSError], None]) -> None:
        _silence()
        super().__init__(
            Config(
                app,
                http=HttpConnection,
                ws="none",
                loop="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECS,
            )
        )
        self.max_connections = max_connections
        self._on_shortage = on_shortage
        self._empty: Once[None] | None = None
        self.turns = 0
        self.leaving = 0
        """Connections that make room, and are not closed yet."""
        self.is_stopped = False
        self._listeners: list[TcpListener] = []
        self.server_state = _State(self)

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to accept. The sockets are bound and listen, and are closed by `stop`."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        self._listeners = [TcpListener(sock, self._connection, self._on_shortage) for sock in sockets]

    def _connection(self) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, self.lifespan.state)

    def stop(self) -> None:
        """Accept no more; idle connections are closed, others after the reply that is under way. Idempotent."""
        self.is_stopped = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        for connection in tuple(self.server_state.connections):
            connection.shutdown()

    async def drained(self) -> None:
        """Wait until there are no connections."""
        while self.server_state.connections:
            self._empty = Once()
            await self._empty.wait()

    def abort(self) -> None:
        """Cut off what there still is. Idempotent."""
        for connection in tuple(self.server_state.connections):
            assert isinstance(connection, HttpConnection)
            connection.abort()
        for task in tuple(self.server_state.tasks):
            task.cancel()

    def connection_over(self) -> None:
        if self._empty is not None and not self.server_state.connections:
            self._empty.set(None)

    def has_room(self) -> bool:
        """Whether one more connection can be served; idle ones make room."""
        return len(self.server_state.connections) - self.leaving < self.max_connections or self._make_room()

    def _make_room(self) -> bool:
        """Close idle connections; False if all are in use.

        They are of the principal that has the most, and those that have been idle longest. Who was not let in yet is
        nobody. With many connections it is some at once: to find them is a look at all.
        """
        connections = [c for c in self.server_state.connections if isinstance(c, HttpConnection) and not c.leaving]
        of = Counter(connection.principal for connection in connections)
        idle = sorted((c for c in connections if c.is_idle), key=lambda connection: connection.turn)
        if not idle:
            return False
        greedy = max((connection.principal for connection in idle), key=of.__getitem__)
        of_greedy = [connection for connection in idle if connection.principal == greedy]
        for connection in of_greedy[: max(1, self.max_connections // A_ROOM)]:
            connection.leave()
        return True


class _Part(enum.Enum):
    """What of a request is being read."""

    NOTHING = "nothing"
    HEADERS = "headers"
    BODY = "body"


class HttpConnection(HttpToolsProtocol):
    """One connection; fits `asgi.Connection`."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(server_state, _State)
        self._owner = server_state.owner
        self._watchers: set[Callable[[], None]] = set()
        self._lost = False
        self._refused = False
        self._part = _Part.NOTHING
        self._header_bytes = 0
        self._body_bytes = 0
        self._framed_bytes = 0
        self._reading: Cancellable | None = None
        self._stuck: Cancellable | None = None
        self._earlier: deque[RequestResponseCycle] = deque()
        self.turn = 0
        self.principal: str | None = None
        self.leaving = False

    # --- asgi.Connection

    def watch(self, lost: Callable[[], None]) -> None:
        if self._lost:
            lost()
        else:
            self._watchers.add(lost)

    def unwatch(self, lost: Callable[[], None]) -> None:
        self._watchers.discard(lost)

    def abort(self) -> None:
        if not self._lost:
            self.transport.abort()

    def leave(self) -> None:
        """Make room for another."""
        self.leaving = True
        self._owner.leaving += 1
        self.abort()

    # --- its life

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        owner = self._owner
        if not owner.has_room():
            self._refused = True
            transport.write(BUSY)
            transport.close()
            return
        super().connection_made(transport)
        owner.turns += 1
        self.turn = owner.turns
        self._reading = call_later(owner.read_secs, self._too_slow)
        if owner.is_stopped:  # it was accepted in the turn before
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self not in self.connections:  # it was turned away
            return
        self._lost = True
        if self.leaving:
            self._owner.leaving -= 1
        for timer in (self._reading, self._stuck):
            if timer is not None:
                timer.cancel()
        self._reading = self._stuck = None
        super().connection_lost(exc)
        for cycle in self._earlier:  # uvicorn tells only the last of pipelined requests
            cycle.disconnected = True
            cycle.message_event.set()
        self._unset_keepalive_if_required()
        watchers, self._watchers = self._watchers, set()
        for lost in watchers:
            lost()
        self._owner.connection_over()

    # --- reading

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._framed_bytes += len(data)
        try:
            self._feed(data)
        except HttpParserError:
            self._refuse(BAD)
            return
        if self._part is _Part.NOTHING:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None
            return
        if self._part is _Part.HEADERS:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(TOO_LONG)
        elif self._framed_bytes > MAX_HEADER_BYTES + (1 + FRAMING_A_BYTE) * self._body_bytes:
            self._refuse(TOO_LONG)  # trailers, or extensions of chunks, without end
        if self._reading is None and not self._lost:
            self._reading = call_later(self._owner.read_secs, self._too_slow)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])

    def _stay(self, rest: bytes) -> None:
        """Take a request that wants another protocol for what it is without that wish (RFC 9110 7.8).

        The parser would read no body of it, and take what follows for the other protocol. `rest`: what follows.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise HttpParserError
        head = [method, b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name not in _HOP_BY_HOP:
                head += [name, b": ", value, b"\r\n"]
            elif name == b"connection" and b"close" in value.lower():
                head.append(b"connection: close\r\n")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as for the first
        self._feed(b"".join([*head, b"\r\n", rest]))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = _Part.HEADERS
        self._header_bytes = self._body_bytes = self._framed_bytes = 0
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part is _Part.HEADERS:  # what comes behind a body is a trailer, and says nothing of who and where
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # see `_stay`
        absolute = None if self.url.startswith(b"/") else _ABSOLUTE.match(self.url)
        if absolute is not None:  # it says where it wants to go, and Host does not count (RFC 9112 3.2.2)
            self.headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in self.headers]
        while self._earlier and self._earlier[0].response_complete:
            self._earlier.popleft()
        if not self.is_idle:
            self._earlier.append(self.cycle)
        super().on_headers_complete()
        self.cycle.transport = cast(Any, Joining(self.transport, self.cycle))
        self._part = _Part.BODY

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._part is _Part.HEADERS:
            return  # see `_stay`
        super().on_message_complete()
        self._part = _Part.NOTHING
        self._owner.turns += 1
        self.turn = self._owner.turns

    def send_400_response(self, msg: str) -> None:
        self._refuse(BAD)

    def _too_slow(self) -> None:
        self._reading = None
        if self._lost:
            return
        if self.flow.read_paused or self.pipeline:  # we are the slow ones: it waits behind another request
            self._reading = call_later(self._owner.read_secs, self._too_slow)
        else:
            self._refuse(TOO_SLOW)

    def _refuse(self, answer: bytes) -> None:
        """Say what is wrong, if that can be taken for the answer to nothing else, and close."""
        if self._refused:
            return
        self._refused = True
        match self._part:
            case _Part.HEADERS:
                can_answer = self.is_idle and not self.pipeline
            case _Part.BODY:
                can_answer = not self.cycle.response_started and not self.pipeline
            case _Part.NOTHING:
                can_answer = False
        if can_answer:
            self.transport.write(answer)
        self.transport.close()

    # --- writing

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._watch_progress(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _watch_progress(self, before: int) -> None:
        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < before:
                self._watch_progress(left)
            else:
                self._stuck = None
                self.abort()

        self._stuck = call_later(self._owner.stuck_secs, look)


def _silence() -> None:
    """Keep uvicorn's own words, which are in no format of ours and can hold what a client sent, out of our log."""
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
