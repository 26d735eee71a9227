"""What the daemon takes of the system for itself and leaves to its servers: descriptors, and memory that was freed.

Two hundred hosts with a stream each, and fifty servers, need more than the 1024 descriptors that a shell gives by
default; a program that uses select(2) must not be given more than that, so a server gets what the daemon was started
with (systemd.exec(5), LimitNOFILE).

By default glibc gives a block of a megabyte back to the kernel as soon as it is freed and fetches it anew for the next
message, page by page: moving a result of 1 MB through the daemon then takes half as long again
(benchmarks/README.md). What is kept instead is bounded.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import Final

ENOUGH: Final = 65_536

RESERVED: Final = 40
"""Log, socket, event loop, warden, a start in flight, a configuration being read or written."""
A_SERVER: Final = 8
"""Three pipes and a pidfd each, twice while it is being started."""
MIN_CONTROL: Final = 8
MIN_HTTP: Final = 16
CONTROL: Final = 256
"""Of the control socket, whatever comes by HTTP: as many as it takes at all (`control.listener.MAX_CONNECTIONS`)."""


def control_connections(servers: int) -> int:
    """Return how many clients the control socket may have, so that enough is left for so many servers."""
    return max(MIN_CONTROL, _soft_limit() - RESERVED - A_SERVER * servers)


def http_connections(servers: int, most: int) -> int:
    """Return how many connections there may be by HTTP: what servers and the control socket leave, up to `most`.

    Where that is little, a quarter of all descriptors.
    """
    soft = _soft_limit()
    left = soft - RESERVED - A_SERVER * servers - CONTROL
    return max(MIN_HTTP, min(most, max(left, soft // 4)))


def _soft_limit() -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft  # infinity is -1


def raise_limit() -> int | None:
    """Raise this process's soft limit as far as it may, and give what it was; None where it was left alone."""
    if sys.platform != "linux":  # where a limit cannot be set back for a child, it is not touched
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""mallopt(3)."""

FROM_HEAP_BYTES: Final = 4 * 1024 * 1024
"""Blocks up to this size come from the heap and are used again; larger ones are rare, and are given back."""
KEPT_BYTES: Final = 8 * 1024 * 1024
"""Free memory at the end of the heap beyond this is given back."""


def keep_freed_blocks() -> bool:
    """Have the C library keep freed blocks of messages for the next; say whether it understood."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, FROM_HEAP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
