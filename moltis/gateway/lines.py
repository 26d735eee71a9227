"""MCP over a stream of lines (MCP, stdio transport): one host on one connection, in either era or both.

A connection of the control socket becomes one by `mcp.connect`, which is what `moltis connect` does for a host that
starts a command. A host that does not read holds up itself. Its own requests wait, what it need not be told is kept
back or left out, and only replies that it asked for pile up, which is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from moltis import logs
from moltis.errors import RpcCode
from moltis.gateway import messages
from moltis.gateway.api import LOCAL, GatewayApi, HostApi
from moltis.gateway.messages import Answer, Ask, Incoming, Tell, Unreadable
from moltis.slices import Sliced
from moltis.steps import LONG_BYTES
from moltis.transport.lines import Conn, Lines
from moltis.transport.wire import Cancellable, call_later

log = logs.get("moltis.gateway")

OUR_FAULT: Final = "Internal error: a fault of moltis, not of yours"


class LineLimits(msgspec.Struct, frozen=True):
    """What one host may take.

    in_flight: requests without a reply; further ones are refused, for its answers and cancellations must get through.
    output_bytes_held: of what waits to be read; beyond it list changes and the like are kept back.
    output_bytes_paused: beyond it nothing more is read from the host, and progress and log messages are left out.
    output_bytes: beyond it the host is dropped when it has taken nothing for `stuck_secs`.
    output_bytes_at_most: beyond it the host is dropped at once, however fast it reads.
    """

    line_bytes: int = 16 * 1024 * 1024
    in_flight: int = 4096
    output_bytes_held: int = 64 * 1024
    output_bytes_paused: int = 1024 * 1024
    output_bytes: int = 16 * 1024 * 1024
    output_bytes_at_most: int = 128 * 1024 * 1024
    stuck_secs: float = 60.0


class LineHost(Lines[Conn]):
    """One host; a connection of the control socket may be handed over to it.

    path: of the view that it sees.

    Raises:
        UnknownServer: there is no such view.
    """

    def __init__(
        self,
        conn: Conn,
        gateway: GatewayApi,
        path: str,
        limits: LineLimits | None = None,
        *,
        later: Callable[[float, Callable[[], None]], Cancellable] = call_later,
    ) -> None:
        self._limits = limits = limits or LineLimits()
        super().__init__(
            conn,
            limits.line_bytes,
            paused_bytes=limits.output_bytes_paused,
            most_bytes=limits.output_bytes_at_most,
            later=later,
        )
        self._gateway = gateway
        self._oversized = 0
        self._taken = 0
        """Bytes, in this turn."""
        self._long: Sliced[Incoming] | None = None
        """A long line that is being read."""
        self._read: Incoming | None = None
        """One that was read."""
        self._open: dict[bytes, _LineOutlet] = {}
        self._is_begun = False
        self._kept_back = False
        self._host: HostApi = gateway.new_host(path, LOCAL, self._unsolicited)

    @property
    def is_busy(self) -> bool:
        """Whether the host is owed a reply, or has said something that was not taken yet."""
        return bool(self._open) or self._framer.waiting or self._long is not None or self._read is not None

    # --- what the connection tells

    def begin(self) -> None:
        """The connection is its own now."""
        self._is_begun = True
        self._host.attached()

    def closed(self, exc: BaseException | None) -> None:
        self._end()

    def drained(self) -> None:
        """Take note that everything written has gone, after some of it had to wait."""
        if self._kept_back and not self._is_over:
            self._kept_back = False
            self._host.attached()
        super().drained()

    def sweep(self) -> None:
        """Drop the host if it is gone, or has stopped reading while much waits for it; or end it with the gateway."""
        if self._is_over:
            return
        limits = self._limits
        if self._gateway.is_closed:  # while the daemon goes on there may be another, for who connects anew
            self._end()
            self._conn.close()
        elif self._conn.stuck_secs > limits.stuck_secs and self._conn.buffered > limits.output_bytes:
            self._drop("slow_reader")
        elif self._half_closed and self._conn.has_hung_up:
            self._drop()

    # --- lines

    def _take_turn(self) -> None:
        self._taken = 0
        super()._take_turn()

    def _take_next(self) -> bool | None:
        if self._read is not None:
            incoming, self._read = self._read, None
            self._take(incoming)
            return True
        if self._long is not None:
            if self._long.is_done():  # and is taken in the next turn
                self._read, self._long = self._long.found, None
            return False
        line = self._framer.next_line()
        if line is None:
            return None
        if len(line) > LONG_BYTES:
            self._long = Sliced(messages.reading_of(line))
            return False
        if line:
            self._take(messages.parse(line))
            self._taken += len(line)
            if self._taken > LONG_BYTES:
                return False
        elif self._framer.oversized > self._oversized:
            self._oversized = self._framer.oversized
            why = f"a message has at most {self._limits.line_bytes} bytes"
            self.write(messages.error(b"null", RpcCode.INVALID_REQUEST, why))
        return True

    def _take(self, incoming: Incoming) -> None:
        try:
            if isinstance(incoming, Ask):
                self._ask(incoming)
            elif isinstance(incoming, Tell):
                if incoming.method == "notifications/cancelled":
                    self._open.pop(_given_up(incoming), None)
                self._host.notification(incoming)
            elif isinstance(incoming, Answer):
                self._host.answer(incoming)
            else:
                self._refuse(incoming)
        except Exception:
            log.error("host_message_failed", pid=self._conn.peer_pid, exc_info=True)
            if isinstance(incoming, Ask):
                self._open.pop(incoming.id, None)
                self.write(messages.error(incoming.id, RpcCode.INTERNAL_ERROR, OUR_FAULT))

    def _ask(self, ask: Ask) -> None:
        if len(self._open) >= self._limits.in_flight:
            why = f"{self._limits.in_flight} requests of this host have no reply yet"
            self.write(messages.error(ask.id, RpcCode.INTERNAL_ERROR, why))
            return
        outlet = _LineOutlet(self, ask.id)
        self._open.setdefault(ask.id, outlet)  # an id in use twice is for the host to refuse, by the second's outlet
        self._host.request(ask, outlet)

    def _refuse(self, unreadable: Unreadable) -> None:
        self.write(messages.error(unreadable.id, unreadable.code, unreadable.reason))

    # --- the way back

    def can_ask(self) -> bool:
        """Whether the host reads, and could answer."""
        return not self._half_closed and self._reads()

    def tell(self, message: bytes) -> bool:
        """Send what is not a reply, unless the host has enough to read."""
        if not self._reads():
            return False
        self.write(message)
        return True

    def answered(self, id: bytes, outlet: _LineOutlet, reply: bytes) -> None:
        """Send the reply to a request."""
        if self._open.get(id) is outlet:
            del self._open[id]
        if not self._is_over:
            self.write(reply)
            if self._half_closed:
                self._close_when_done()

    def _reads(self) -> bool:
        return not self._is_over and not self._is_full()

    def _unsolicited(self, message: bytes) -> bool:
        if not self._is_begun or self._is_over:
            return False
        if self._conn.buffered > self._limits.output_bytes_held:
            self._kept_back = True
            return False
        self.write(message)
        return True

    # --- the end

    def _drop(self, reason: str = "") -> None:
        if reason and not self._is_over:
            log.warning("mcp_host_dropped", pid=self._conn.peer_pid, reason=reason, buffered=self._conn.buffered)
        self._end()
        self._conn.abort()

    def _end(self) -> None:
        """Give up what the host waits for. Idempotent."""
        if not self._is_over:
            self._is_over = True
            self._open.clear()
            self._host.close()


class _LineOutlet:
    """The way back for one request."""

    __slots__ = ("_id", "_is_over", "_line_host")

    def __init__(self, line_host: LineHost, id: bytes) -> None:
        self._line_host = line_host
        self._id = id
        self._is_over = False

    def tell(self, message: bytes) -> bool:
        return self._line_host.tell(message)

    def can_ask(self) -> bool:
        return self._line_host.can_ask()

    def reply(self, message: bytes, status: int = 200) -> None:
        if not self._is_over:
            self._is_over = True
            self._line_host.answered(self._id, self, message)


def _given_up(tell: Tell) -> bytes:
    return bytes(tell.params.get("requestId", msgspec.Raw()))
