"""Ports for what is to listen at an address that is known before it does, or that comes back to where it was."""

from __future__ import annotations

import contextlib
import random
import socket

BELOW_THE_KERNELS_OWN = range(20_000, 32_000)
"""Linux gives connections, and whoever listens at port 0, one from 32768 on (ip_local_port_range)."""


def free_port() -> int:
    """Return a port that nobody listens on, and that no other test is given by chance meanwhile."""
    while True:
        port = random.SystemRandom().choice(BELOW_THE_KERNELS_OWN)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
