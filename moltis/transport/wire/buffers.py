"""The way into a stream socket and out of a descriptor, neither of which takes or has everything now."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

READ_BYTES: Final = 64 * 1024
"""One recv(2), and what is read in one turn of the loop."""
LOOK_AGAIN_SECS: Final = 0.2


class Inbox:
    """What arrives on a socket that its owner opens and closes; nothing is read before `resume`.

    on_data: called with at most 64 KiB.
    on_end: called once, when no more can come: the error, or None after an orderly end. Nothing is read any more.

    A reader of a socket may not return before recv(2) has said that there is nothing, or have itself called again. When
    the peer closes with bytes of ours unread, the kernel reports POLLERR beside what it said last (unix(7)); libuv then
    stops watching the descriptor, calls once, and tells of the end no more (uv__poll_io in src/unix/poll.c).
    A recv(2) that finds nothing costs a call more than all the rest of reading it, so it is done at once after a
    silence, and then once for all that was read within `LOOK_AGAIN_SECS`.
    """

    def __init__(
        self, sock: socket.socket, on_data: Callable[[bytes], None], on_end: Callable[[OSError | None], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_data = on_data
        self._on_end = on_end
        self._over = False
        self._turn_is_due = False
        self._look: asyncio.TimerHandle | None = None
        self._looked_at = -math.inf
        self.is_reading = False

    def resume(self) -> None:
        """Read from the next turn of the loop on. Idempotent; no effect after the end."""
        if not self.is_reading and not self._over:
            self.is_reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def pause(self) -> None:
        """Read no more until `resume`; to be called before the socket is closed. Idempotent."""
        if self.is_reading:
            self.is_reading = False
            self._loop.remove_reader(self._sock.fileno())
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def look_again(self) -> None:
        """Read in the next turn of the loop whatever the loop has been told, unless paused."""
        if self.is_reading and not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._due_turn)

    def _due_turn(self) -> None:
        self._turn_is_due = False
        self._readable()

    def _due_look(self) -> None:
        self._look = None
        self._looked_at = self._loop.time()
        self._readable()

    def _look_soon(self) -> None:
        moment = self._loop.time()
        if moment - self._looked_at > LOOK_AGAIN_SECS:
            self._looked_at = moment
            self.look_again()
        else:
            self._look = self._loop.call_later(LOOK_AGAIN_SECS, self._due_look)

    def _readable(self) -> None:
        if not self.is_reading:
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(None)
            return
        if len(data) == READ_BYTES:  # there may be more, and others have their turn
            self.look_again()
        elif self._look is None:
            self._look_soon()
        self._on_data(data)

    def _end(self, error: OSError | None) -> None:
        self._over = True
        self.pause()
        self._on_end(error)


WRITEV_CHUNKS: Final = 64


class Outbox:
    """Bytes on their way into a descriptor: written at once when it takes them, else when it does again."""

    def __init__(self, fd: int, on_error: Callable[[OSError], None], on_empty: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_error = on_error
        self._on_empty = on_empty
        self._queue: deque[memoryview] = deque()
        self._waiting = False
        self._last_progress = 0.0
        self._over = False
        self.buffered = 0

    @property
    def stuck_secs(self) -> float:
        return self._loop.time() - self._last_progress if self.buffered else 0.0

    def write(self, data: bytes) -> None:
        if self._over or not data:
            return
        written = 0
        if not self._queue:
            try:
                written = os.write(self._fd, data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.abandon()
                self._loop.call_soon(self._on_error, error)
                return
            if written == len(data):
                return
            self._last_progress = self._loop.time()
        self._queue.append(memoryview(data)[written:])
        self.buffered += len(data) - written
        if not self._waiting:
            self._waiting = True
            self._loop.add_writer(self._fd, self._ready)

    def abandon(self) -> None:
        """Drop what is queued and take nothing more."""
        self._over = True
        self._queue.clear()
        self.buffered = 0
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)

    def _ready(self) -> None:
        if self._over:
            return
        try:
            written = os.writev(self._fd, [self._queue[i] for i in range(min(len(self._queue), WRITEV_CHUNKS))])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.abandon()
            self._on_error(error)
            return
        self._last_progress = self._loop.time()
        self.buffered -= written
        while written:
            head = self._queue[0]
            if len(head) > written:
                self._queue[0] = head[written:]
                break
            written -= len(head)
            self._queue.popleft()
        if not self._queue:
            self._stop_waiting()
            self._on_empty()
