"""A connection whose peer says lines and is answered in lines, and may be slow, hostile or gone.

Lines are taken by turns, and others' turns come in between. A peer that does not read holds up itself: no more is taken
of what it says than it reads answers to, and what it does not read is bounded. What a line means is the subclasses'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from moltis.transport.frames import JOIN_BYTES, Framer
from moltis.transport.wire import Cancellable, call_later

LINES_PER_TURN: Final = 16
"""Lines taken before others have their turn: a few milliseconds' work at most."""


class Conn(Protocol):
    """What is asked of a connection, as `transport.wire.PeerConn` is one."""

    peer_pid: int | None

    @property
    def buffered(self) -> int: ...
    @property
    def stuck_secs(self) -> float: ...
    @property
    def has_hung_up(self) -> bool: ...
    @property
    def is_closing(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


C = TypeVar("C", bound=Conn)


class Lines(ABC, Generic[C]):
    """One side of such a connection; a `wire.Handler` but for `closed`.

    line_bytes: of one line, at most.
    paused_bytes: of what waits to be read; beyond it nothing more is taken of what the peer says.
    most_bytes: of the same; beyond it the peer is dropped, however fast it reads.
    """

    def __init__(
        self,
        conn: C,
        line_bytes: int,
        *,
        paused_bytes: int,
        most_bytes: int,
        later: Callable[[float, Callable[[], None]], Cancellable] = call_later,
    ) -> None:
        self._conn = conn
        self._framer = Framer(line_bytes)
        self._paused_bytes = paused_bytes
        self._most_bytes = most_bytes
        self._later = later
        self._turn_is_due = False
        self._is_paused = False
        self._half_closed = False
        self._is_over = False
        """Nothing of what the peer says from now on is for this."""

    @property
    def partial_bytes(self) -> int:
        """What is held of a line that is not whole."""
        return self._framer.pending_bytes

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether the peer is owed an answer, or has said something that was not taken yet."""

    @abstractmethod
    def _take_next(self) -> bool | None:
        """Take what comes next; False: the rest in another turn; None: there is nothing more."""

    @abstractmethod
    def _drop(self, reason: str = "") -> None:
        """Give up and close now; `reason` is for the log. Idempotent."""

    @abstractmethod
    def _end(self) -> None:
        """Give up what the peer waits for. Idempotent."""

    # --- in

    def data_received(self, data: bytes) -> None:
        self._framer.push(data)
        if not self._turn_is_due:
            self._take_turn()

    def eof_received(self) -> None:
        """Answer what was asked, unless nobody is there to read it."""
        self._half_closed = True
        if self._conn.has_hung_up:
            self._drop()
        else:
            self._close_when_done()

    def drained(self) -> None:
        """Take note that everything written has gone, after some of it had to wait."""
        self._turn_later()

    def _take_turn(self) -> None:
        for _ in range(LINES_PER_TURN):
            if self._is_over or self._conn.is_closing:
                return
            if self._is_full():
                self._pause()  # `drained`, or an answer, goes on
                return
            went_on = self._take_next()
            if went_on is None:
                if self._is_paused:
                    self._is_paused = False
                    self._conn.resume_reading()
                if self._half_closed:
                    self._close_when_done()
                return
            if not went_on:
                break
        if not self._is_over:
            self._pause()
            self._turn_later()

    def _turn_later(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._later(0, self._due_turn)

    def _due_turn(self) -> None:
        self._turn_is_due = False
        self._take_turn()

    def _is_full(self) -> bool:
        """Whether nothing more is taken of what the peer says."""
        return self._conn.buffered > self._paused_bytes

    def _pause(self) -> None:
        self._is_paused = True
        self._conn.pause_reading()

    # --- out

    def write(self, line: bytes) -> None:
        """Send one line; no newline is in it."""
        if self._conn.buffered > self._most_bytes:
            self._drop("slow_reader")
        elif len(line) <= JOIN_BYTES:
            self._conn.write(line + b"\n")
        else:
            self._conn.write(line)
            self._conn.write(b"\n")

    # --- the end

    def _close_when_done(self) -> None:
        if self._half_closed and not self.is_busy:
            self._end()
            self._conn.close()
