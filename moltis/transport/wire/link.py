"""A stream socket between two of our own processes that carries descriptors along with bytes."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from moltis.transport.wire.buffers import Inbox

_SEND_LATER: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
"""sendmsg(2): the system is short of something, or too many descriptors of this user are in flight."""


class Link:
    """One end of a `socketpair`, owned; `on_eof` is called once, when the other end is gone."""

    def __init__(self, sock: socket.socket, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_eof = on_eof
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting = False
        sock.setblocking(False)
        self._inbox = Inbox(sock, on_data, self._ended)
        self._inbox.resume()

    @property
    def is_severed(self) -> bool:
        """Whether the other end is gone, though what it said last may still be unread."""
        if self._sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._sock.fileno(), 0)  # POLLHUP needs no asking for
        return bool(poll.poll(0))

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Queue a message and, with its first byte, `fds`, which stay the caller's to close.

        Raises:
            OSError: no descriptor is left to keep copies of `fds` until they can be sent.
        """
        if self._sock.fileno() < 0:
            return
        rest = memoryview(data)
        if not self._queue:
            sent = self._send(rest, fds)
            if sent:
                rest, fds = rest[sent:], ()
        if rest:
            self._queue.append((rest, _copies(fds)))
            self._wait(True)

    def finish(self) -> None:
        """Close for writing, which the other end reads as end of file; what it still says is read."""
        self._drop_queue()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already, and the reader is about to find out

    def close(self) -> None:
        """Close now; no callback follows. Idempotent."""
        self._drop_queue()
        if self._sock.fileno() >= 0:
            self._inbox.pause()
            self._sock.close()

    def look_again(self) -> None:
        """Read what there is, and the end of it, in the next turn of the loop, whatever the loop has been told."""
        self._inbox.look_again()

    def _send(self, data: memoryview, fds: Sequence[int]) -> int:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            return self._sock.sendmsg([data], rights)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            if error.errno in _SEND_LATER:
                return 0
            return len(data)  # the other end is gone, which the reader tells; nothing is owed to it

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            sent = self._send(data, fds)
            if not sent:
                return
            _close(fds)
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (data[sent:], ())
        self._wait(False)

    def _wait(self, waiting: bool) -> None:
        if waiting != self._waiting:
            self._waiting = waiting
            if waiting:
                self._loop.add_writer(self._sock.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _drop_queue(self) -> None:
        if self._sock.fileno() >= 0:
            self._wait(False)
        while self._queue:
            _close(self._queue.popleft()[1])

    def _ended(self, _error: OSError | None) -> None:
        self.close()
        self._on_eof()


def _copies(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        _close(copies)
        raise
    return copies


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
