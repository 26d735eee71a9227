"""How many descriptors the daemon may have, and its servers.

Two hundred hosts with a stream each, and fifty servers, need more than the 1024 that a shell gives by default; a
program that uses select(2) must not be given more than that, so a server gets what the daemon was started with
(systemd.exec(5), LimitNOFILE).
"""

from __future__ import annotations

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


def control_connections(servers: int) -> int:
    """Give how many clients the control socket may have, so that enough is left for so many servers."""
    return max(MIN_CONTROL, _soft_limit() - RESERVED - A_SERVER * servers)


def http_connections(most: int) -> int:
    """Give how many hosts may be connected by HTTP: a quarter of all descriptors, and at most so many.

    Whoever reaches the address can open connections; servers and the control socket need descriptors too.
    """
    return max(MIN_HTTP, min(most, _soft_limit() // 4))


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
