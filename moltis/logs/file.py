"""The file the log is written to: opened safely, mended after a failure, replaced when it is gone, rotated by size.

Runs on the sink's thread, so it may block on a disk, but never on a FIFO, a device or a lock. Knows nothing of records
but that each is a line. Every line in the file is whole.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from moltis import private
from moltis.logs.record import MAX_LINE_BYTES
from moltis.logtail import backup_path

RETRY_SECS = 5.0
"""Between two tries after a failure: soon enough for a person who has just made room."""

LOOK_SECS = 1.0
"""Between two looks at whether the path still leads to the open file."""

CHUNK_BYTES = 256 * 1024
"""Lines are written together up to this size: one system call for a burst."""


class LogFile:
    """logs.jsonl with its backups.

    Args:
        max_bytes: Rotate before the file would grow over this; 0 or less never rotates.
        backups: Copies kept; 0 keeps none.
        complain: Told what is wrong in one sentence, once until it is well again.
        lost: Makes the line that tells of a rotation whose copy could not be made, of (bytes lost, reason).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        backups: int,
        complain: Callable[[str], None],
        lost: Callable[[int, str], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.backups = backups
        self._complain = complain
        self._lost = lost
        self._clock = clock
        self._fd = -1
        self._size = 0
        self._look_at = 0.0
        self._retry_at: float | None = None
        self._complained = ""

    def write(self, lines: deque[bytes], *, at_once: bool = False) -> bool:
        """Write and remove lines from the left; give False if some must wait for `RETRY_SECS`.

        `at_once` tries even if the last failure was a moment ago: the daemon is about to end.
        """
        now = self._clock()
        if self._retry_at is not None and now < self._retry_at and not at_once:
            return False
        try:
            while lines:
                self._look(now)
                self._make_room(len(lines[0]))
                self._append(lines)
        except OSError as error:
            self._fail(error, now)
            return False
        self._retry_at = None
        self._complained = ""
        return True

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _fail(self, error: OSError, now: float) -> None:
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                mend(self._fd)
        self.close()
        self._retry_at = now + RETRY_SECS
        reason = error.strerror or str(error)
        if reason != self._complained:
            self._complained = reason
            self._complain(f"cannot write the log {self.path}: {reason}; trying again every {RETRY_SECS:g} s")

    def _look(self, now: float) -> None:
        """Have the file open that the path leads to now."""
        if self._fd >= 0 and now < self._look_at:
            return
        self._look_at = now + LOOK_SECS
        if self._fd >= 0:
            mine = os.fstat(self._fd)
            try:
                there = os.lstat(self.path)
            except FileNotFoundError:
                self.close()
            else:
                self._size = mine.st_size
                if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                    self.close()
        if self._fd < 0:
            self._fd = open_log(self.path)
            self._size = mend(self._fd)

    def _make_room(self, needed: int) -> None:
        if self.max_bytes <= 0 or self._size == 0 or self._size + needed <= self.max_bytes:
            return
        failure = rotate(self._fd, self.path, self.backups)
        lost_bytes, self._size = self._size, 0
        if failure:
            self._append(deque([self._lost(lost_bytes, failure)]))

    def _append(self, lines: deque[bytes]) -> None:
        """Write the lines that fit into the file and into one chunk, at least one; remove those that were written."""
        room = CHUNK_BYTES if self.max_bytes <= 0 else min(CHUNK_BYTES, self.max_bytes - self._size)
        sizes = itertools.accumulate(len(line) for line in lines)
        count = max(1, sum(1 for _ in itertools.takewhile(lambda total: total <= room, sizes)))
        chunk = b"".join(itertools.islice(lines, count))
        done = 0
        try:
            while done < len(chunk):
                done += os.write(self._fd, memoryview(chunk)[done:])
        finally:
            for _ in range(chunk.count(b"\n", 0, done)):
                self._size += len(lines.popleft())


def open_log(path: Path) -> int:
    """Open the log for reading and appending, made with mode 0600 if need be; its folder too (0700).

    Raises:
        OSError: It cannot be opened, or is no file of this user's own (`private.Unusable`).
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    try:
        return private.open_private(path, flags)
    except FileNotFoundError:
        os.mkdir(path.parent, 0o700)
        return private.open_private(path, flags)


def mend(fd: int) -> int:
    """Cut off a line that was not written to its end; give the size of the file."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return size
    start = max(0, size - 2 * MAX_LINE_BYTES)
    end = os.pread(fd, size - start, start)
    whole = start + end.rfind(b"\n") + 1
    if whole > start or (start == 0 and end.startswith(b"{")):
        os.ftruncate(fd, whole)
        return whole
    # Whatever this is, it is no line of ours, and stays.
    return size + os.write(fd, b"\n")


READER_SECS = 0.02
"""Pause before and after the truncation, on the log's own thread: whoever follows the file reads its end, then sees it
shrink, before new lines hide that it did."""

_COPY_BYTES = 1024 * 1024


def rotate(fd: int, path: Path, backups: int) -> str | None:
    """Copy the log aside as backup 1, shift the older ones, and truncate it.

    A rename would leave `tail -f` looking at a backup for ever; after this it goes on. Only the one writer calls it, so
    no line can come between the copy and the truncation.
    When the disk is full the oldest backup gives way. Gives None, or why there is no copy of what was truncated.

    Raises:
        OSError: The file could not be truncated; it is as before.
    """
    drop_surplus(path, backups)
    failure = None
    if backups > 0:
        try:
            _keep_copy(fd, path, backups)
        except OSError as error:
            failure = error.strerror or str(error)
    time.sleep(READER_SECS)
    os.ftruncate(fd, 0)
    time.sleep(READER_SECS)
    return failure


def drop_surplus(path: Path, backups: int) -> None:
    """Remove the backups numbered higher than `backups`."""
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            number = other.name.removeprefix(f"{path.name}.")
            if number != other.name and number.isdecimal() and int(number) > backups:
                other.unlink()


def _keep_copy(fd: int, path: Path, backups: int) -> None:
    copy = path.with_name(f".{path.name}.copy")
    drop_surplus(path, backups - 1)
    older = [old for number in range(backups - 1, 0, -1) if (old := backup_path(path, number)).exists()]
    while True:
        try:
            _copy(fd, copy)
            break
        except OSError as error:
            with contextlib.suppress(OSError):
                copy.unlink()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not older:
                raise
        older.pop(0).unlink()
    for number in range(backups - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            backup_path(path, number).rename(backup_path(path, number + 1))
    copy.rename(backup_path(path, 1))


def _copy(fd: int, to: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        to.unlink()
    target = private.create(to)
    try:
        position = 0
        while block := os.pread(fd, _COPY_BYTES, position):
            position += len(block)
            view = memoryview(block)
            while view:
                view = view[os.write(target, view) :]
    finally:
        os.close(target)
