"""One client's connection: lines in, replies and events out, and how much of the daemon it may take.

Knows nothing of other clients. Every request is answered once, a batch in one line (JSON-RPC 2.0 section 6), and what a
client asked for ends when the client does. A method may hand the connection over to a guest (`mcp.connect`): once that
is answered, all that comes and goes is the guest's, and so are the limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from moltis import jsonrpc, logs
from moltis.control import requests
from moltis.control.registry import Registry
from moltis.errors import MoltisError, UsageError
from moltis.gateway.lines import LineHost
from moltis.operations.api import CallHandle, DaemonApi
from moltis.operations.events import Subscription
from moltis.transport.lines import Lines
from moltis.transport.wire import PeerConn


class Exchange:
    """One line and its answer: the `registry.Caller` of each request in it."""

    __slots__ = (
        "_after", "_conversation", "_handles", "_is_batch", "_is_cancelled", "_is_request", "_left", "_replies",
        "_size",
    )  # fmt: skip

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._handles: list[CallHandle] = []
        self._replies: list[bytes] = []
        self._after: list[Callable[[], None]] = []
        self._is_batch = False
        self._is_cancelled = False
        self._is_request = False
        self._left = 0
        self._size = 0

    @property
    def sink(self) -> Conversation:
        return self._conversation

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        return self._conversation.subscriptions

    def after_reply(self, callback: Callable[[], None]) -> None:
        self._after.append(callback)

    def start(self, work: Callable[[], Awaitable[None]]) -> CallHandle:
        return self._conversation.start(work)

    def hand_over(self, build: Callable[[PeerConn], LineHost]) -> None:
        if not self._is_request:
            raise UsageError("a connection is handed over by one request, neither a notification nor in a batch")
        guest = self._conversation._admit(build)
        self._after.append(lambda: self._conversation._hand_over(guest))

    def begin(self, message: requests.Message, registry: Registry, daemon: DaemonApi) -> None:
        """Answer a message, now or later."""
        self._is_batch = isinstance(message, requests.Batch)
        members = message.members if isinstance(message, requests.Batch) else (message,)
        self._is_request = isinstance(message, requests.Request) and message.id is not None
        self._left = self._size = len(members)
        self._conversation._began(self, self._size)
        for member in members:
            if isinstance(member, requests.Refused):
                self._done(member.reply)
                continue
            handle = registry.dispatch(member, daemon, self, self._done if member.id is not None else self._noted)
            if handle is not None and self._left:
                self._handles.append(handle)
            if self._is_cancelled:
                self.cancel()
                return

    def cancel(self) -> None:
        """Cancel what is not answered; no reply follows."""
        self._is_cancelled = True
        for handle in self._handles:
            handle.cancel()

    def _noted(self, _reply: bytes) -> None:
        """A notification is not answered, not even with an error (section 4.1)."""
        self._finish_one()

    def _done(self, reply: bytes) -> None:
        self._replies.append(reply)
        self._finish_one()

    def _finish_one(self) -> None:
        self._left -= 1
        if self._left or self._is_cancelled:
            return
        reply = self._replies[0] if self._replies else None
        self._conversation._answered(self, self._size, requests.batch(self._replies) if self._is_batch else reply)
        for callback in self._after:
            callback()


log = logs.get("moltis.control")


class Limits(msgspec.Struct, frozen=True):
    """What one client may take.

    in_flight: requests being worked on; later ones are not read.
    output_bytes_paused: replies waiting to be read; beyond it no further request is looked at.
    output_bytes: beyond it the client is dropped when that lasts `stuck_secs`.
    output_bytes_at_most: beyond it the client is dropped at once, however fast it reads.
    stuck_secs: without any byte taken by the client while replies wait, it is dropped.
    partial_line_secs: from a sweep that sees part of a line until it must be whole.
    """

    line_bytes: int = 1024 * 1024
    in_flight: int = 128
    output_bytes_paused: int = 1024 * 1024
    output_bytes: int = 8 * 1024 * 1024
    output_bytes_at_most: int = 64 * 1024 * 1024
    event_bytes: int = 64 * 1024
    stuck_secs: float = 5.0
    partial_line_secs: float = 10.0
    partial_bytes_unwatched: int = 64 * 1024


class Conversation(Lines[PeerConn]):
    """A `wire.Handler`, and the sink of its own subscriptions.

    start: does work in a task of its own.
    active, over: tell the listener that this client did something, and that it is gone.
    may_hand_over: whether there is room for one more guest.
    """

    def __init__(
        self,
        conn: PeerConn,
        registry: Registry,
        daemon: DaemonApi,
        limits: Limits,
        *,
        start: Callable[[Callable[[], Awaitable[None]]], CallHandle],
        active: Callable[[Conversation], None],
        over: Callable[[Conversation], None],
        may_hand_over: Callable[[], bool],
    ) -> None:
        self.last_turn = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.start = start
        super().__init__(
            conn, limits.line_bytes, paused_bytes=limits.output_bytes_paused, most_bytes=limits.output_bytes_at_most
        )
        self._registry = registry
        self._daemon = daemon
        self._limits = limits
        self._tell_active = active
        self._tell_over = over
        self._may_hand_over = may_hand_over
        self._guest: LineHost | None = None
        self._lines_seen = 0
        self._open: set[Exchange] = set()
        self._in_flight = 0
        self._was_swept = False
        self._partial: tuple[int, float] | None = None
        self._flooded_since: float | None = None
        conn.on_drain = self.drained

    # --- what the listener asks

    @property
    def peer_pid(self) -> int | None:
        return self._conn.peer_pid

    @property
    def is_handed_over(self) -> bool:
        """Whether it is a guest's, and so is never closed for being idle."""
        return self._guest is not None

    @property
    def is_busy(self) -> bool:
        """Whether it waits for an answer."""
        return bool(self._in_flight or self._framer.waiting or self._guest)

    @property
    def has_asked(self) -> bool:
        """Whether it waits for an answer, or will when it is read: closed now, it would not know what became of it."""
        return self.is_busy or self._conn.has_unread

    @property
    def rank(self) -> int:
        """How much is lost by closing it: 0 half-open, 1 idle or only just connected, 2 subscribed."""
        if self.subscriptions:
            return 2
        return 0 if self.partial_bytes or (self._was_swept and not self._lines_seen) else 1

    @property
    def partial_bytes(self) -> int:
        """What is held of a line that is not whole."""
        return super().partial_bytes if self._guest is None else self._guest.partial_bytes

    def sweep(self, now: float) -> None:
        """Drop the client if it has stopped reading, stopped in the middle of a line, or gone."""
        self._was_swept = True
        if self._conn.has_hung_up:
            if not self._conn.look_again():  # what it said last is heard first
                self.abort()
        elif self._guest is not None:
            self._guest.sweep()
        elif self._conn.stuck_secs > self._limits.stuck_secs or self._is_flooded(now):
            self._drop("slow_reader")
        elif self._is_stuck_in_a_line(now):
            self.refuse(f"a line was not finished within {self._limits.partial_line_secs:g} s")

    def refuse(self, why: str) -> None:
        """Say what is wrong with the client and close the connection."""
        if self._guest is None:
            self._conn.write(requests.invalid_request(why) + b"\n")
        self._end()
        self._conn.close()

    def evict(self, parting: bytes) -> None:
        """Close now, with a last line for a client that may be about to ask. It has nothing in flight."""
        self._conn.write(parting)
        self.abort()

    def abort(self) -> None:
        """Close now; what is in flight is cancelled. Idempotent."""
        self._drop()

    # --- what the wire tells

    def data_received(self, data: bytes) -> None:
        if self._guest is not None:
            self._guest.data_received(data)
        else:
            super().data_received(data)
        self._tell_active(self)

    def eof_received(self) -> None:
        if self._guest is not None:
            self._guest.eof_received()
            return
        if not self._conn.has_hung_up:
            self.data_received(b"\n")  # what `printf '{...}' | nc -N` leaves without its newline is a line too
        super().eof_received()

    def closed(self, exc: BaseException | None) -> None:
        self._end()
        if self._guest is not None:
            self._guest.closed(exc)
        self._tell_over(self)

    # --- events.Sink

    def drained(self) -> None:
        for subscription in tuple(self.subscriptions.values()):
            subscription.flush()
        super().drained()

    def has_room(self) -> bool:
        return self._conn.buffered < self._limits.event_bytes

    def tell(self, subscription_id: str, seq: int, dropped: int, event: bytes) -> None:
        self._conn.write(event_notification(subscription_id, seq, dropped, event) + b"\n")

    # --- lines

    def _take_next(self) -> bool | None:
        line = self._framer.next_line()
        if self._framer.oversized:
            self.refuse(f"a line has at most {self._limits.line_bytes} bytes")
        elif line is None:
            return None
        elif line:
            self._lines_seen += 1
            Exchange(self).begin(requests.parse(line), self._registry, self._daemon)
        return True

    def _is_full(self) -> bool:
        return self._in_flight >= self._limits.in_flight or self._conn.buffered > self._paused_bytes

    # --- exchanges

    def _began(self, exchange: Exchange, requests: int) -> None:
        self._open.add(exchange)
        self._in_flight += requests

    def _answered(self, exchange: Exchange, requests: int, reply: bytes | None) -> None:
        self._open.discard(exchange)
        self._in_flight -= requests
        if reply is not None:
            self.write(reply)
        if self._is_paused or self._half_closed:
            self._turn_later()

    def _close_when_done(self) -> None:
        if not self.subscriptions:
            super()._close_when_done()

    def _drop(self, reason: str = "") -> None:
        if reason:
            log.warning("control_client_dropped", pid=self.peer_pid, reason=reason, buffered=self._conn.buffered)
        self._end()
        self._conn.abort()

    def _end(self) -> None:
        """Cancel what is in flight and end all subscriptions. Idempotent."""
        for subscription in self.subscriptions.values():
            subscription.close()
        self.subscriptions.clear()
        exchanges, self._open = self._open, set()
        self._in_flight = 0
        for exchange in exchanges:
            exchange.cancel()

    # --- handing over

    def _admit(self, build: Callable[[PeerConn], LineHost]) -> LineHost:
        if self._in_flight > 1 or self.subscriptions:
            raise UsageError("a connection with other requests or subscriptions open cannot be handed over")
        if not self._may_hand_over():
            raise MoltisError("as many connections as can be are MCP hosts already", hint="end one of them")
        return build(self._conn)

    def _hand_over(self, guest: LineHost) -> None:
        """Give the connection to a guest, with all that came after the request that asked for it."""
        rest = self._framer.take_rest()
        self._guest = guest
        self._is_over = True
        if self._conn.is_closing:
            guest.closed(None)
            return
        self._conn.on_drain = guest.drained
        guest.begin()
        self._conn.resume_reading()
        if rest:
            guest.data_received(rest)
        if self._half_closed:
            guest.eof_received()

    # --- slow clients

    def _is_flooded(self, now: float) -> bool:
        if self._conn.buffered <= self._limits.output_bytes:
            self._flooded_since = None
            return False
        if self._flooded_since is None:
            self._flooded_since = now
        return now - self._flooded_since > self._limits.stuck_secs

    def _is_stuck_in_a_line(self, now: float) -> bool:
        if not self.partial_bytes:
            self._partial = None
            return False
        if self._partial is None or self._partial[0] != self._lines_seen:
            self._partial = (self._lines_seen, now)
        return now - self._partial[1] >= self._limits.partial_line_secs


def event_notification(subscription_id: str, seq: int, dropped: int, event: bytes) -> bytes:
    """Return an event, a JSON object, as the notification `mcp.event`; no newline."""
    head = (msgspec.json.encode(subscription_id), seq, dropped, event[1:])
    return jsonrpc.notification("mcp.event", b'{"subscription_id":%b,"seq":%d,"dropped":%d,%b' % head)
