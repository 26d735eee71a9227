"""Notices that moltis.toml was edited.

Looks once a second: a library that watches folders costs 2.5 MB, wakes as often, and does not see that a symlinked file
changed where the link points (dotfile managers).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

LOOK_SECS = 1.0


async def watch(path: Path, changed: Callable[[], Awaitable[None]]) -> None:
    """Await `changed` each time the file has become another one; for ever. A file that is gone is no change."""
    seen = _identity(path)
    while True:
        await anyio.sleep(LOOK_SECS)
        now = _identity(path)
        if now is not None and now != seen:
            seen = now
            await changed()


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
