"""Notices that moltis.toml, or tokens.toml, was edited.

Looks once a second: a library that watches folders costs 2.5 MB, wakes as often, and does not see that a symlinked file
changed where the link points (dotfile managers). It is a bare timer, not a task: an idle daemon does little else, and a
task's wake-up costs several times as much. All of them look at the same moments, for one wake-up costs less than two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from moltis.transport.wire import Cancellable, call_later, now

LOOK_SECS = 1.0


class Watch:
    """Calls back each time the file has become another one, until cancelled.

    absence_counts: whether a file that is gone, or is there again, is a change. each_time: called at every look.
    """

    def __init__(
        self,
        path: Path,
        changed: Callable[[], object],
        *,
        absence_counts: bool = False,
        each_time: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = path
        self._changed = changed
        self._absence_counts = absence_counts
        self._each_time = each_time
        self._seen = _identity(path)
        self._timer: Cancellable = call_later(_until_next_look(), self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = call_later(_until_next_look(), self._look)
        found = _identity(self._path)
        if found != self._seen and (found is not None or self._absence_counts):
            self._seen = found
            self._changed()
        self._each_time()


def _until_next_look() -> float:
    left = LOOK_SECS - now() % LOOK_SECS
    return left if left > LOOK_SECS / 2 else left + LOOK_SECS  # a timer may be early


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
