"""The way in of a stream socket, which is read to its end on either loop."""

from __future__ import annotations

import asyncio
import math
import socket
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
