"""Waiting for a lock that other processes may hold, without holding up a thread or the event loop meanwhile."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from moltis.oauth.blocking import blocking
from moltis.oauth.folder import StoreProblem

FIRST_POLL_SECS: Final = 0.005
LAST_POLL_SECS: Final = 0.1
"""Whoever holds it speaks to an authorization server, which takes 0.05 to 10 s."""


class LockBusy(Exception):
    """Somebody else held the lock all the time."""


@asynccontextmanager
async def file_lock(open_file: Callable[[], int], wait_secs: float) -> AsyncIterator[None]:
    """Hold flock(2) on a file for as long as the block lasts; the kernel frees it when the process dies.

    open_file: gives the file's descriptor; called in a thread, may raise what it likes.
    wait_secs: how long to wait at most.

    Raises:
        LockBusy: it could not be had in that time.
        OAuthProblem: `outage`: no thread can be started to open it.
        StoreProblem: the file system knows no locks.
    """
    # A descriptor of its own excludes the tasks and threads of this process like any other process.
    fd = await blocking(open_file)
    try:
        deadline = anyio.current_time() + wait_secs
        poll_secs = FIRST_POLL_SECS
        while not _try(fd):
            if anyio.current_time() >= deadline:
                raise LockBusy
            await anyio.sleep(poll_secs)
            poll_secs = min(poll_secs * 2, LAST_POLL_SECS)
        yield
    finally:
        os.close(fd)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreProblem(f"the token store cannot be locked: {error.strerror}") from error
    return True
