"""Takes finished lines from any thread at once, and writes them on a thread of its own.

`put` neither waits nor raises. When the disk is too slow or too full, lines are dropped and counted, and
the count is itself logged as soon as that is possible.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Final

from moltis.logs.file import RETRY_SECS, LogFile
from moltis.logs.record import Record, encode, finish, make_record
from moltis.logtail import level_number
from moltis.redaction import Scrubber

MAX_PENDING_BYTES = 4 * 1024 * 1024
"""Lines waiting for the disk: minutes of an ordinary daemon, a second of the worst flood."""

LINGER_SECS = 0.005
"""Lines that come this soon after each other are written at once."""

CALL_LINGER_SECS = 0.05
"""The same for the records of calls, of which there may be thousands a second: waking the thread for them costs the
calls more than the writing does. Whoever follows the log does not notice, and any other record takes them along."""

CLOSE_SECS = 1.0
"""The longest that ending the daemon waits for the log."""

TARGET = "moltis.logs"


class LogSink:
    """The writing end of the log. Made by `configure`.

    Args:
        path: The log; its backups stand beside it.
        level: The lowest level that is written, by name.
        max_bytes: Rotate before the file would grow over this; 0 or less never rotates.
        backups: Rotated copies kept.
        scrubber: Replaces secrets in every record.
        complain: Told of trouble with the file, a sentence each; by default writes it to stderr.

    Raises:
        ValueError: There is no such level.
    """

    def __init__(
        self,
        path: Path,
        *,
        level: str,
        max_bytes: int,
        backups: int,
        scrubber: Scrubber | None = None,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        self.level = level_number(level)
        self.scrubber = scrubber
        self._complain = complain or note_on_stderr
        self.listener: Callable[[bytes], None] | None = None
        """Told each line, scrubbed, on the thread that logged it; it must neither block, nor raise, nor log."""
        self._file = LogFile(path, max_bytes=max_bytes, backups=backups, complain=self._complain, lost=_lost_record)
        # A finalizer that the garbage collector runs inside `put` may log: the lock must let its own thread in.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[bytes] = deque()
        self._pending_bytes = 0
        self._dropped = 0
        self._put_count = 0
        self._done_count = 0
        self._stopping = False
        self._linger = math.inf
        """How long the most urgent line that is queued may wait; infinite while none is."""
        self._flushing = 0
        self._thread = threading.Thread(target=self._run, name="moltis-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records dropped that the log does not tell of yet."""
        return self._dropped

    @property
    def scrubber_generation(self) -> int:
        """Tell which secrets the scrubber knows: another number after each change."""
        return 0 if self.scrubber is None else self.scrubber.generation

    def accept(self, record: Record) -> None:
        """Scrub a record of `make_record` and put its line."""
        line = finish(record, self.scrubber)
        self.put(line)
        if self.listener is not None:
            self.listener(line)

    def put(self, line: bytes, linger_secs: float = LINGER_SECS) -> None:
        """Queue a whole line, to be written within `linger_secs`, or count it as dropped. Neither waits nor raises."""
        with self._lock:
            if self._stopping or self._pending_bytes + len(line) > MAX_PENDING_BYTES:
                self._dropped += 1
                return
            self._enqueue(line, linger_secs)

    def count_dropped(self, number: int) -> None:
        """Count records that were lost before they came here."""
        with self._changed:
            self._dropped += number

    def reconfigure(
        self, *, level: str | None = None, max_bytes: int | None = None, backups: int | None = None
    ) -> None:
        """Change what is given; from the next record on.

        Raises:
            ValueError: There is no such level.
        """
        if level is not None:
            self.level = level_number(level)
        if max_bytes is not None:
            self._file.max_bytes = max_bytes
        if backups is not None:
            self._file.backups = backups

    def flush(self, timeout_secs: float = CLOSE_SECS) -> bool:
        """Wait until everything put so far is written; give False if that takes too long."""
        with self._changed:
            goal = self._put_count
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._done_count >= goal, timeout_secs)
            finally:
                self._flushing -= 1

    def close(self, timeout_secs: float = CLOSE_SECS) -> None:
        """Write what is left and end the thread, within `timeout_secs` even if the disk hangs.

        What could not be written is counted on stderr; a line put later is dropped.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_secs)
        missing = self._put_count - self._done_count + self._dropped
        if missing:
            self._complain(f"{missing} log records could not be written to {self._file.path}")

    def _enqueue(self, line: bytes, linger_secs: float) -> None:
        self._pending_bytes += len(line)
        self._put_count += 1
        self._queue.append(line)
        if linger_secs < self._linger:
            self._linger = linger_secs
            self._changed.notify_all()

    def _run(self) -> None:
        backlog: deque[bytes] = deque()
        while self._next(backlog):
            before = len(backlog), sum(map(len, backlog))
            well = False
            # The thread must outlive whatever a disk, or a lack of memory, can do to it.
            try:
                well = self._file.write(backlog, at_once=self._stopping)
            except Exception as error:
                self._complain(f"the log failed: {type(error).__name__}: {error}")
            self._report(before[0] - len(backlog), before[1] - sum(map(len, backlog)), well)
            if self._stopping and not self._queue:
                break
        self._file.close()

    def _next(self, backlog: deque[bytes]) -> bool:
        """Wait for lines, or for the time to retry those that failed; add what came."""
        with self._changed:
            deadline = time.monotonic() + RETRY_SECS
            while not self._stopping and (not self._queue or backlog):
                remaining = deadline - time.monotonic() if backlog else None
                if remaining is not None and remaining <= 0:
                    break
                self._changed.wait(remaining)
            if not backlog:
                self._linger_for_more()
            backlog.extend(self._queue)
            self._queue.clear()
            self._linger = math.inf
            return bool(backlog) or not self._stopping

    def _linger_for_more(self) -> None:
        since = time.monotonic()
        while not (self._stopping or self._flushing):
            left = since + self._linger - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _report(self, done: int, done_bytes: int, well: bool) -> None:
        """Account for lines written; when all is well, put the record of those that were dropped."""
        with self._changed:
            self._done_count += done
            self._pending_bytes -= done_bytes
            if well and self._dropped:
                count, self._dropped = self._dropped, 0
                self._enqueue(_record("log_records_dropped", count=count), LINGER_SECS)
            self._changed.notify_all()


def note_on_stderr(text: str) -> None:
    """Write a sentence to stderr if that takes no waiting."""
    if sys.__stderr__ is None:
        return
    with contextlib.suppress(OSError, ValueError):
        fd = sys.__stderr__.fileno()
        if select.select([], [fd], [], 0)[1]:
            os.write(fd, f"moltis: {text}\n".encode(errors="replace")[: select.PIPE_BUF])


def _record(message: str, **fields: object) -> bytes:
    return encode(make_record(time.time_ns() // 1_000_000, "WARN", TARGET, message, fields))


def _lost_record(lost_bytes: int, reason: str) -> bytes:
    return _record("log_truncated_without_copy", lost_bytes=lost_bytes, reason=reason)


MAX_FRAMES: Final = 4096
"""Servers times tools times outcomes times hosts; when there are more, all are made anew."""

_TS: Final = 8_191_919_191_919
_NUMBER: Final = 7_373_737_373_737
"""Stand for what differs while a line is being shaped."""


class Shaped:
    """One message of one target at one level, written thousands of times a second, each time with another number.

    Shaping a record takes 33 us, which is more than all the rest of a tool call, so it is shaped and scrubbed once. The
    line is the one that the logger itself would have written.

    names: of its fields; number: the name of the one that differs, which is written last, with three decimals.
    """

    def __init__(self, level: str, target: str, message: str, names: tuple[str, ...], number: str) -> None:
        self._head = (level, target, message)
        self._names = names
        self._number = number
        self._frames: dict[tuple[Hashable, ...], tuple[bytes, bytes]] = {}
        self._made_for: tuple[LogSink, int] | None = None

    def put(self, sink: LogSink, values: tuple[Hashable, ...], number: float) -> None:
        """Write it. `values`: of the fields, as their names."""
        made_for = (sink, sink.scrubber_generation)
        if made_for != self._made_for or len(self._frames) >= MAX_FRAMES:
            self._frames.clear()
            self._made_for = made_for
        frame = self._frames.get(values)
        if frame is None:
            frame = self._frames[values] = self._shape(sink, values)
        line = b'{"ts":%d%b%.3f%b' % (time.time_ns() // 1_000_000, frame[0], number, frame[1])
        sink.put(line, CALL_LINGER_SECS)
        if sink.listener is not None:
            sink.listener(line)

    def _shape(self, sink: LogSink, values: tuple[Hashable, ...]) -> tuple[bytes, bytes]:
        """Return what stands between time and number, and what stands behind it."""
        fields = {**dict(zip(self._names, values, strict=True)), self._number: _NUMBER}
        line = finish(make_record(_TS, *self._head, fields), sink.scrubber)
        before, found, after = line.rpartition(b"%d" % _NUMBER)
        start = b'{"ts":%d' % _TS
        assert found, "a record of short fields is never cut"
        assert before.startswith(start)
        return before[len(start) :], after
