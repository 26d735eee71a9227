"""Reads logs.jsonl back: its last records, and new ones as they come.

Also says what the log looks like from outside: its levels and the names of its files. Standard library only, and no
writing, so that `moltis logs` need not load what the daemon writes with. Files are read backwards from the end: the
last ten records cost the same whatever the size of the log. Lines that are not whole JSON objects are passed over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from moltis.private import Unusable, open_file

Record = dict[str, Any]

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40}
"""The levels of a record, lowest first, with the numbers of the standard library's logging."""

POLL_SECS = 0.25
"""Between two looks of `follow`: a person does not notice the delay."""

HEAD_BYTES = 256
"""Compared to tell a log from what it was before it was truncated: the first record has the time in it."""

_BLOCK_BYTES = 64 * 1024
_TRIES = 3


def level_number(name: str) -> int:
    """Return the number of a level, by its name in any case; `warning` and `critical` are understood.

    Raises:
        ValueError: There is no such level.
    """
    word = {"warning": "warn", "critical": "error"}.get(name.lower(), name.lower())
    if word not in LEVELS:
        raise ValueError(f"log level {name!r} is none of {', '.join(LEVELS)}")
    return LEVELS[word]


def level_name(number: int) -> str:
    """Return the name of the highest level not above `number`."""
    return max((name for name in LEVELS if LEVELS[name] <= number), key=LEVELS.__getitem__, default="debug")


def backup_path(path: Path, number: int) -> Path:
    """Name the n-th backup of the log, 1 being the youngest: logs.jsonl.1."""
    return path.with_name(f"{path.name}.{number}")


def tail(path: Path, limit: int, *, server: str | None = None, level: str | None = None) -> list[Record]:
    """Return the last `limit` records, oldest first, from the backups too when the log itself has fewer.

    Args:
        path: The log; that it does not exist (yet) is no error.
        limit: At most so many; 0 or less gives none.
        server: Only records whose field `server` is this.
        level: Only records of this level and above.

    Raises:
        OSError: It exists and cannot be read.
        ValueError: There is no such level.
    """
    wanted = _Wanted(server, level)
    for _ in range(_TRIES):
        with _Log(path) as log:
            before = log.size
            found = _last(path, log, before, limit, wanted)
            if log.size >= before:
                break
        # It was rotated meanwhile, so that lines may have been seen both in it and in its copy: once more.
    return found


def follow(
    path: Path,
    *,
    limit: int = 0,
    server: str | None = None,
    level: str | None = None,
    poll_secs: float = POLL_SECS,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record]:
    """Yield the last `limit` records, then each new one, for ever; no record twice, and none left out.

    Survives that the log is truncated (what was not yet read is read from the backup), deleted, replaced, or does not
    exist yet. What a log that was empty at one look is filled with and rotated away before the next is left out.

    Raises:
        OSError: It exists and cannot be read.
        ValueError: There is no such level.
    """
    wanted = _Wanted(server, level)
    log = _Log(path)
    try:
        position = log.end_of_last_line()
        yield from _last(path, log, position, limit, wanted)
        head = log.head(position)
        while True:
            if log.size < position or not log.head(HEAD_BYTES).startswith(head):
                yield from _missed(path, head, position, wanted)
                position = 0
            while lines := log.whole_lines(position):
                position += len(lines)
                yield from wanted.records(lines.splitlines())
            head = log.head(position)
            if log.is_still(path):
                sleep(poll_secs)
            else:
                # A line may have come between the last read and the deletion; then the new file is read from its start.
                yield from wanted.records(log.whole_lines(position).splitlines())
                log.close()
                log, position, head = _Log(path), 0, b""
                if not log.exists:
                    sleep(poll_secs)
    finally:
        log.close()


class _Wanted:
    """Which records are asked for."""

    def __init__(self, server: str | None, level: str | None) -> None:
        lowest = 0 if level is None else level_number(level)
        self._server = server
        self._levels = {name.upper() for name, number in LEVELS.items() if number >= lowest}
        # Looked for in the raw line first: most lines need not be parsed then.
        self._level_marks = None if level is None else [f'"{name}"'.encode() for name in self._levels]
        self._server_mark = None if server is None else json.dumps(server).encode()

    def record(self, line: bytes) -> Record | None:
        if self._server_mark is not None and self._server_mark not in line:
            return None
        if self._level_marks is not None and not any(mark in line for mark in self._level_marks):
            return None
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict):
            return None
        # Compared as it is: what is no text, say a list, cannot be looked up in a set.
        if self._level_marks is not None and not any(record.get("level") == name for name in self._levels):
            return None
        fields = record.get("fields")
        if self._server is not None and not (isinstance(fields, dict) and fields.get("server") == self._server):
            return None
        return record

    def records(self, lines: list[bytes]) -> Iterator[Record]:
        return (record for line in lines if (record := self.record(line)) is not None)


class _Log:
    """One file of the log, open for reading; an absent one, or one that is not a file, is like an empty one.

    A FIFO or a symbolic link in its place is never waited for nor followed.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        with suppress(FileNotFoundError, Unusable):
            self._fd = open_file(path, os.O_RDONLY)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def exists(self) -> bool:
        return self._fd >= 0

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0

    @property
    def identity(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def is_still(self, path: Path) -> bool:
        """Tell whether `path` leads to this file."""
        try:
            there = os.lstat(path)
        except FileNotFoundError:
            return False
        return self.exists and (there.st_dev, there.st_ino) == self.identity

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._fd, length, start) if self._fd >= 0 else b""

    def head(self, position: int) -> bytes:
        """Return the first bytes, of what lies before `position`."""
        return self.read(0, min(position, HEAD_BYTES))

    def whole_lines(self, start: int) -> bytes:
        """Return lines from `start` on, up to a newline: one block of them, or one line that is longer."""
        block = self.read(start, _BLOCK_BYTES)
        while b"\n" not in block and len(block) >= _BLOCK_BYTES:
            more = self.read(start + len(block), _BLOCK_BYTES)
            if not more:
                break
            block += more
        return block[: block.rfind(b"\n") + 1]

    def end_of_last_line(self) -> int:
        """Return the position after the last newline."""
        position = self.size
        while position > 0:
            start = max(0, position - _BLOCK_BYTES)
            newline = self.read(start, position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
        return 0

    def lines_backwards(self, end: int) -> Iterator[bytes]:
        """Yield the lines before `end`, the last one first."""
        rest: list[bytes] = []
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            first, *others = self.read(start, end - start).split(b"\n")
            if others:
                yield b"".join([others.pop(), *reversed(rest)])
                yield from reversed(others)
                rest = []
            rest.append(first)
            end = start
        yield b"".join(reversed(rest))


def _last(path: Path, log: _Log, end: int, limit: int, wanted: _Wanted) -> list[Record]:
    """Collect the last records before `end` of the open log, and before it of the backups."""
    found = _take(log.lines_backwards(end), limit, wanted)
    seen = {log.identity} if log.exists else set()
    number = 0
    while len(found) < limit:
        number += 1
        with _Log(backup_path(path, number)) as backup:
            if not backup.exists:
                break
            # A rotation that is going on shows one content twice: as .1 and .2, or in the log and as .1.
            half_done = number == 1 and backup.size == log.size and backup.head(HEAD_BYTES) == log.head(HEAD_BYTES)
            if backup.identity in seen or half_done:
                continue
            seen.add(backup.identity)
            found += _take(backup.lines_backwards(backup.size), limit - len(found), wanted)
    found.reverse()
    return found


def _take(lines: Iterator[bytes], limit: int, wanted: _Wanted) -> list[Record]:
    found: list[Record] = []
    if limit > 0:
        for line in lines:
            if line and (record := wanted.record(line)) is not None:
                found.append(record)
                if len(found) >= limit:
                    break
    return found


def _missed(path: Path, head: bytes, position: int, wanted: _Wanted) -> Iterator[Record]:
    """Yield what the log had after `position` when it was truncated: the copy that began with `head` has it.

    Backups younger than that copy came and went between two looks, and were never read at all.
    """
    if not head:
        return
    number = 1
    while True:
        with _Log(backup_path(path, number)) as backup:
            if not backup.exists:
                return
            if backup.size >= position and backup.head(HEAD_BYTES).startswith(head):
                break
        number += 1
    start = position
    for young in range(number, 0, -1):
        with _Log(backup_path(path, young)) as backup:
            while lines := backup.whole_lines(start):
                start += len(lines)
                yield from wanted.records(lines.splitlines())
        start = 0
