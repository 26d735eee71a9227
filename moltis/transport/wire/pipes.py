"""Pipes, one direction each, read and written by callbacks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import termios
from array import array
from collections.abc import Callable
from typing import Final

from moltis.transport.wire.buffers import Outbox
from moltis.transport.wire.loop import Cancellable

SMALL_READ: Final = 64 * 1024
LARGE_READ: Final = 256 * 1024
"""One read(2): a pipe's usual size, and more while the peer keeps filling it and the owner is done with that in one
turn (a 1 MB answer is then 4 reads)."""


class PipeReader:
    """Reads a descriptor it owns: `on_data` gets what arrives, then `on_eof` is called once, after which it is closed.

    `on_data` says by True that it has more to do with what it was given. It is then called with no data in the next
    turn of the loop, and so on until it is done; nothing is read meanwhile, so that the pipe itself holds up a peer
    that writes faster than its turns allow.
    """

    def __init__(self, fd: int, on_data: Callable[[bytes], bool | None], on_eof: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_data = on_data
        self._on_eof = on_eof
        self._on_end: Callable[[], None] | None = None
        self._left = 0
        self._size = SMALL_READ
        self._listening = False
        self._turn: Cancellable | None = None
        os.set_blocking(fd, False)
        self._listen(True)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def finish(self, max_bytes: int, on_end: Callable[[], None]) -> None:
        """Read what is there already, at most `max_bytes`, close, and then call `on_end` once.

        For the moments after an exit: it waits for nobody who still holds the other end. `on_data` is given what is
        read as ever, and its turns; `on_eof` is not called any more.
        """
        self._listen(False)
        self._left, self._on_end = max_bytes, on_end
        if self._turn is None:
            self._turn = self._loop.call_soon(self._next_turn)

    def close(self) -> None:
        """Close the descriptor; no callback follows. Idempotent."""
        self._on_end = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._shut()

    def _ready(self) -> None:
        if not self._listening:
            return
        data = self._read(self._size)
        if data:
            full = len(data) == self._size
            is_done = self._hand_on(data)
            self._size = LARGE_READ if full and is_done else SMALL_READ
        elif data is not None:
            self._shut()
            self._on_eof()

    def _hand_on(self, data: bytes) -> bool:
        """Hand on data, or the next turn (no data), and return whether the owner is done with all it was given."""
        if not self._on_data(data):
            return True
        if self.is_open:  # it was not closed meanwhile
            self._listen(False)
            if self._turn is None:
                self._turn = self._loop.call_soon(self._next_turn)
        return False

    def _next_turn(self) -> None:
        self._turn = None
        if not self._hand_on(b""):
            return
        if self._on_end is None:
            self._listen(True)
            return
        data = self._read(min(SMALL_READ, self._left)) if self.is_open and self._left else None
        if data:
            self._left -= len(data)
            if self._hand_on(data) and self._on_end is not None:
                self._turn = self._loop.call_soon(self._next_turn)
        else:
            self._shut()
            self._on_end()

    def _read(self, size: int) -> bytes | None:
        """Return what there is: nothing at the end of the file, None when there is nothing yet."""
        try:
            return os.read(self._fd, size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:  # EIO from a pty whose other side is gone: the end of it all the same
            return b""

    def _listen(self, listening: bool) -> None:
        if self.is_open and listening != self._listening:
            self._listening = listening
            if listening:
                self._loop.add_reader(self._fd, self._ready)
            else:
                self._loop.remove_reader(self._fd)

    def _shut(self) -> None:
        if self.is_open:
            self._listen(False)
            fd, self._fd = self._fd, -1
            os.close(fd)


class PipeWriter:
    """Writes to a descriptor it owns. `on_error` is called once if its reader goes away; it is closed by then."""

    def __init__(self, fd: int, on_error: Callable[[OSError], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_error = on_error
        self._closing = False
        self._unread = 0
        os.set_blocking(fd, False)
        self._outbox = Outbox(fd, self._failed, self._emptied)
        # The write end of a pipe turns "readable" when its last reader is gone: a peer that closed is noticed unasked.
        self._loop.add_reader(fd, self._reader_gone)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def buffered(self) -> int:
        """Bytes taken from the owner and not yet by the kernel."""
        return self._outbox.buffered

    @property
    def unread(self) -> int:
        """Bytes taken from the owner and not yet by the reader; once it is closed: at that moment.

        0 where the kernel does not say (FIONREAD on the write end of a pipe is Linux's).
        """
        return self.buffered + _in_pipe(self._fd) if self.is_open else self._unread

    @property
    def stuck_secs(self) -> float:
        """Seconds since the kernel last took a byte of those waiting; 0 when none waits."""
        return self._outbox.stuck_secs

    def write(self, data: bytes) -> None:
        """Queue bytes; after `close` they are dropped."""
        if not self._closing:
            self._outbox.write(data)

    def close(self) -> None:
        """Close once what is queued is written, so that the reader meets end of file. Idempotent."""
        self._closing = True
        if not self.buffered:
            self.abort()

    def abort(self) -> None:
        """Close now and drop what is queued. Idempotent; no callback follows."""
        self._closing = True
        if self.is_open:
            self._unread = self.unread
            self._outbox.abandon()
            self._loop.remove_reader(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _reader_gone(self) -> None:
        if self.is_open:
            self.abort()
            self._on_error(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def _failed(self, error: OSError) -> None:
        if self.is_open:
            self.abort()
            self._unread += 1  # what could not be written, whatever it was
            self._on_error(error)

    def _emptied(self) -> None:
        if self._closing:
            self.abort()


def _in_pipe(fd: int) -> int:
    count = array("i", [0])
    try:
        fcntl.ioctl(fd, termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]
