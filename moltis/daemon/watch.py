"""Notices that moltis.toml, or tokens.toml, was edited.

Looks once a second: a library that watches folders costs 2.5 MB, wakes as often, and does not see that a symlinked file
changed where the link points (dotfile managers). It is one bare timer for all files, not a task for each: an idle
daemon does little else, a task's wake-up costs several times as much, and one wake-up costs less than two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from moltis.transport.wire import Cancellable, call_about

LOOK_SECS = 1.0


class Watch:
    """Looks at files until cancelled, each second from the first one on. To be used in the event loop only."""

    def __init__(self) -> None:
        self._files: list[_File] = []
        self._timer: Cancellable | None = None

    def file(
        self,
        path: Path,
        changed: Callable[[], object],
        *,
        absence_counts: bool = False,
        each_time: Callable[[], object] | None = None,
    ) -> Callable[[], None]:
        """Call back each time the file has become another one. What is returned ends that, to be called once.

        absence_counts: whether a file that is gone, or is there again, is a change. each_time: called at every look.
        """
        file = _File(str(path), changed, absence_counts, each_time)
        self._files.append(file)
        if self._timer is None:
            self._timer = call_about(LOOK_SECS, self._look)
        return lambda: self._files.remove(file)

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = call_about(LOOK_SECS, self._look)
        for file in tuple(self._files):
            file.look()


class _File:
    def __init__(
        self, path: str, changed: Callable[[], object], absence_counts: bool, each_time: Callable[[], object] | None
    ) -> None:
        self._path = path
        self._changed = changed
        self._absence_counts = absence_counts
        self._each_time = each_time
        self._seen = _identity(path)
        self._emptied: _Identity | None = None

    def look(self) -> None:
        found = _identity(self._path)
        if found != self._seen and (found is not None or self._absence_counts):
            if found is not None and found[1] == 0 and found != self._emptied:
                self._emptied = found  # who writes in place empties it first: it is believed at the second look
            else:
                self._seen = found
                self._changed()
        if self._each_time is not None:
            self._each_time()


_Identity = tuple[int, int, int]
"""When it was written, its size and its inode."""


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
