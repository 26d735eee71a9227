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
CONTROL: Final = 256
"""Of the control socket, whatever comes by HTTP: as many as it takes at all (`control.listener.MAX_CONNECTIONS`)."""


def control_connections(servers: int) -> int:
    """Give how many clients the control socket may have, so that enough is left for so many servers."""
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
