"""A stream socket between two of our own processes that carries descriptors along with bytes."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

READ_BYTES: Final = 64 * 1024


class Link:
    """One end of a `socketpair`, owned; `on_eof` is called once, when the other end is gone."""

    def __init__(self, sock: socket.socket, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_data = on_data
        self._on_eof = on_eof
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Queue a message and, with its first byte, `fds`; they must stay open until the other end has answered."""
        if self._sock.fileno() < 0:
            return
        self._queue.append((memoryview(data), fds))
        if not self._waiting:
            self._flush()

    def finish(self) -> None:
        """Give the other end its end of file; what it still says is read."""
        if self._sock.fileno() >= 0:
            self._stop_waiting()
            self._queue.clear()
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it is gone already, and the reader is about to find out

    def close(self) -> None:
        """Close now; no callback follows. Idempotent."""
        if self._sock.fileno() >= 0:
            self._stop_waiting()
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._sock.fileno())

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            try:
                sent = self._sock.sendmsg([data], rights)
            except (BlockingIOError, InterruptedError):
                if not self._waiting:
                    self._waiting = True
                    self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:
                self._queue.clear()  # the other end is gone: the reader tells
                break
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (data[sent:], ())
        self._stop_waiting()

    def _readable(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self.close()
            self._on_eof()
