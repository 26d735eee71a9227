"""The way out of a descriptor that may not take everything now."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final

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
