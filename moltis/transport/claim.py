"""What a daemon and its warden hold together, for as long as either lives: the right to run this data dir's servers.

A warden ends the servers of a daemon that was killed, which takes it up to two seconds. Who starts the next daemon
meanwhile, as systemd does, must not have a second copy of each server beside the first: it may be one that allows only
one. flock(2) on a file belongs to the open file, which both processes have; the kernel frees it with the last of them.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import anyio

from moltis.transport.warden import GIVE_UP_SECS, TERM_GRACE_SECS

LOOK_SECS: Final = 0.02
GIVE_UP_AFTER_SECS: Final = TERM_GRACE_SECS + GIVE_UP_SECS + 1.0
"""The longest that an orphaned warden lives, and a second. What it has not ended by then nobody can end."""


class Claim:
    """The claim on the servers of one data dir, at `path`. Without a file for it nothing is waited for."""

    def __init__(self, path: Path | None = None) -> None:
        self._fd = -1
        if path is not None:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError:
                pass
        self._is_clear = self._fd < 0
        self._turn: anyio.Lock | None = None

    @property
    def descriptor(self) -> int | None:
        """For the warden to inherit; None where there is none."""
        return self._fd if self._fd >= 0 else None

    def take(self) -> bool:
        """Take it unless somebody has it; return whether servers may be started."""
        if not self._is_clear:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                pass  # not every file system knows locks
            self._is_clear = True
        return True

    async def wait(self) -> None:
        """Wait until servers may be started: nothing of an earlier daemon's is left, or nobody can end it."""
        if self.take():
            return
        if self._turn is None:
            self._turn = anyio.Lock()
        async with self._turn:  # one looks for all
            give_up_at = anyio.current_time() + GIVE_UP_AFTER_SECS
            while not self.take():
                if anyio.current_time() >= give_up_at:
                    self._is_clear = True
                await anyio.sleep(LOOK_SECS)

    def close(self) -> None:
        """Let go of it; the warden, if there is one, has it for as long as it lives. Idempotent."""
        fd, self._fd, self._is_clear = self._fd, -1, True
        if fd >= 0:
            os.close(fd)
