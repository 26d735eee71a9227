"""Pipes, one direction each, read and written by callbacks."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

from moltis.transport.wire.outbox import Outbox

SMALL_READ: Final = 64 * 1024
LARGE_READ: Final = 256 * 1024
"""One read(2): a pipe's usual size, and more while the peer keeps filling it (a 1 MB answer is then 4 reads)."""


class PipeReader:
    """Reads a descriptor it owns until end of file; see `open_pipe_reader`."""

    def __init__(self, fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_data = on_data
        self._on_eof = on_eof
        self._size = SMALL_READ
        self._paused = True
        os.set_blocking(fd, False)
        self.resume()

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def pause(self) -> None:
        """Stop reading; the peer blocks once the kernel's buffer is full. Idempotent."""
        if not self._paused and self.is_open:
            self._loop.remove_reader(self._fd)
        self._paused = True

    def resume(self) -> None:
        if self._paused and self.is_open:
            self._loop.add_reader(self._fd, self._ready)
        self._paused = False

    def drain(self, max_bytes: int) -> bytes:
        """Take what can be read right now, at most `max_bytes`, without calling back; for the moments after an exit."""
        chunks: list[bytes] = []
        while self.is_open and max_bytes > 0:
            try:
                data = os.read(self._fd, min(LARGE_READ, max_bytes))
            except OSError:
                break
            if not data:
                break
            chunks.append(data)
            max_bytes -= len(data)
        return b"".join(chunks)

    def close(self) -> None:
        """Close the descriptor; no callback follows. Idempotent."""
        if self.is_open:
            self.pause()
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _ready(self) -> None:
        if not self.is_open:
            return
        try:
            data = os.read(self._fd, self._size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO from a pty whose other side is gone: the end of it all the same
            data = b""
        if data:
            self._size = LARGE_READ if len(data) == self._size else SMALL_READ
            self._on_data(data)
        else:
            self.close()
            self._on_eof()


def open_pipe_reader(fd: int, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> PipeReader:
    """Own `fd` and call `on_data` with what arrives, then `on_eof` once, after which it is closed."""
    return PipeReader(fd, on_data, on_eof)


class PipeWriter:
    """Writes to a descriptor it owns; see `open_pipe_writer`."""

    def __init__(self, fd: int, on_error: Callable[[OSError], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_error = on_error
        self._closing = False
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
    def stuck_secs(self) -> float:
        """Seconds since the kernel last took a byte of those waiting; 0 when none waits."""
        return self._outbox.stuck_secs

    def write(self, data: bytes) -> None:
        """Queue bytes; after `close` they are dropped."""
        if not self._closing:
            self._outbox.write(data)

    def close(self) -> None:
        """Give the reader end of file once what is queued is written. Idempotent."""
        self._closing = True
        if not self.buffered:
            self.abort()

    def abort(self) -> None:
        """Close now and drop what is queued. Idempotent; no callback follows."""
        self._closing = True
        if self.is_open:
            self._outbox.abandon()
            self._loop.remove_reader(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _reader_gone(self) -> None:
        self._failed(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def _failed(self, error: OSError) -> None:
        if self.is_open:
            self.abort()
            self._on_error(error)

    def _emptied(self) -> None:
        if self._closing:
            self.abort()


def open_pipe_writer(fd: int, on_error: Callable[[OSError], None]) -> PipeWriter:
    """Own `fd` and write to it. `on_error` is called once if its reader goes away; it is closed by then."""
    return PipeWriter(fd, on_error)
