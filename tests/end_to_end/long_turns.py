"""`moltis`, on asyncio's own loop, writing down how long each turn of the loop worked where that is long.

    long_turns.py FILE WORDS...

Each line of the file: the milliseconds of processor time, and what worked for the longest of them. Where this machine
is slower just then than one that is idle, they are what that would have taken.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import gc
import os
import sys
import time
from typing import Any

import msgspec

LONG_SECS = 0.02

REFERENCE = b'"%b"' % (b"x" * 4 * 1024 * 1024)
REFERENCE_SECS = 0.0025
"""To pass over that on an idle machine."""


def slowness() -> float:
    began = time.thread_time()
    for _ in range(3):
        msgspec.json.decode(REFERENCE, type=msgspec.Raw)
    return max(1.0, (time.thread_time() - began) / 3 / REFERENCE_SECS)


def measure(path: str) -> None:
    out = os.open(path, os.O_WRONLY | os.O_APPEND)
    clock = time.thread_time
    run_once: Any = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]
    run: Any = asyncio.events.Handle._run
    longest: list[tuple[float, str]] = []

    def measured_run(handle: Any) -> None:
        began = clock()
        callback = repr(handle._callback)
        run(handle)
        if clock() - began > LONG_SECS / 2:
            longest.append((clock() - began, callback))

    def measured(loop: Any) -> None:
        began = clock()
        run_once(loop)
        took = clock() - began
        if took > LONG_SECS:
            took /= slowness()
            told = " ".join(f"{secs * 1000:.0f}:{what}" for secs, what in longest)
            os.write(out, f"{took * 1000:.1f} {told}\n".encode())
            gc.collect()
        longest.clear()

    gc.disable()
    asyncio.events.Handle._run = measured_run  # type: ignore[method-assign]
    asyncio.BaseEventLoop._run_once = measured  # type: ignore[attr-defined]


if __name__ == "__main__":
    measure(sys.argv.pop(1))
    from moltis.daemon import running

    running._has_uvloop = lambda: False
    from moltis.cli import main

    main()
