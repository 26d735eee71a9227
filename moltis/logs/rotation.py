"""Rotation that keeps the file: its content is copied aside and it is truncated in place.

A rename would leave `tail -f` looking at a backup for ever; after this it goes on. Only the one writer calls it, so no
line can come between the copy and the truncation.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from moltis.logtail import backup_path

READER_SECS = 0.02
"""Pause before and after the truncation, on the log's own thread: whoever follows the file reads its end, then sees it
shrink, before new lines hide that it did."""

_COPY_BYTES = 1024 * 1024


def rotate(fd: int, path: Path, backups: int) -> str | None:
    """Copy the log aside as backup 1, shift the older ones, and truncate it.

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
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(to, flags, 0o600)
    try:
        os.fchmod(target, 0o600)
        position = 0
        while block := os.pread(fd, _COPY_BYTES, position):
            position += len(block)
            view = memoryview(block)
            while view:
                view = view[os.write(target, view) :]
    finally:
        os.close(target)
