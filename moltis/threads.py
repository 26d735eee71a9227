"""Work that would block the event loop, on a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

from moltis.errors import Busy

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *args: object, abandon_on_cancel: bool = False) -> T:
    """Call `work` on a thread and return what it returns.

    abandon_on_cancel: whoever is cancelled does not wait for it; it goes on, and what it returns is dropped.

    Raises:
        Busy: no thread can be started: the user's limit of processes is reached (RLIMIT_NPROC), which may be a
            server's doing.
    """
    started = False

    def run() -> T:
        nonlocal started
        started = True
        return work(*args)

    try:
        return await anyio.to_thread.run_sync(run, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError as error:
        if started:  # it is the work's own
            raise
        raise Busy(
            f"no thread can be started: {error}", hint="see who runs so many processes, then try again"
        ) from None
