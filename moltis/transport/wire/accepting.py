"""The accept loop of every listener of ours: nothing ends it, and no client is turned away for want of a descriptor."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from moltis.transport.wire.loop import Cancellable

ACCEPT_PAUSE_SECS: Final = 0.05
"""When something is short, the next try may find some: clients wait in the backlog meanwhile."""
ACCEPTS_PER_WAKEUP: Final = 32
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) that are this machine's; others are of one client, who is gone."""
SHORTAGE_TOLD_SECS: Final = 60.0
"""A shortage that comes and goes is told once in this time."""


class Acceptor:
    """Accepts on a listening socket until closed; the socket stays the caller's.

    The loops' own servers will not do: asyncio's accepts no more for a second and logs a traceback, and libuv's closes
    the connections that wait when no descriptor is left (uv__emfile_trick in src/unix/stream.c).

    on_socket: given each connection, which does not block; it must not raise.
    on_shortage: told why nobody can be accepted, at most once in `SHORTAGE_TOLD_SECS`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_socket: Callable[[socket.socket], None],
        on_shortage: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_socket = on_socket
        self._on_shortage = on_shortage
        self._told_at: float | None = None
        self._pause: Cancellable | None = None
        self._closed = False
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more; to be called before the socket is closed. Connections already made go on. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            if self._closed:
                return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # accept(2): something is short, or that one client is gone
                self._loop.remove_reader(self._sock.fileno())
                self._pause = self._loop.call_later(ACCEPT_PAUSE_SECS, self._listen)
                if error.errno in SHORTAGES:
                    self._tell(error)
                return
            sock.setblocking(False)
            self._on_socket(sock)

    def _tell(self, error: OSError) -> None:
        now = self._loop.time()
        if self._told_at is None or now - self._told_at >= SHORTAGE_TOLD_SECS:
            self._told_at = now
            self._on_shortage(error)
