"""`moltis run`: from paths to an exit code.

start: refuse early (lock, config), listen for hosts, then log, warden, supervisor, gateway, control socket, READY=1
end:   STOPPING=1, all servers at once, gateway, control socket, warden, log

Here is what comes before anything that takes time to import; the rest is in `running`.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from moltis.config.load import load
from moltis.config.overrides import EnvOverrides
from moltis.config.plan import GatewayPlan
from moltis.control.endpoint import Endpoint, take_data_dir
from moltis.httpd.address import listening
from moltis.paths import Paths

__all__ = ["main"]


def main(paths: Paths) -> int:
    """Run the daemon until it is told to end; give the exit code.

    Raises:
        AlreadyRunning: another daemon holds the data dir, or answers at the socket.
        ConfigError: moltis.toml cannot be read, or wants an endpoint that anyone could use.
        NotPermitted: the data dir is another user's, or others can write to the socket's folder.
        UsageError: the socket's path is too long.
    """
    lock = take_data_dir(paths)
    try:
        overrides = EnvOverrides(paths.env_overrides)
        loaded = load(paths.config, overrides.values(), os.environ)
        loaded.plan.gateway.refuse_if_open()
        sockets = _listen_early(loaded.plan.gateway)
        from moltis.daemon.running import run

        endpoint = Endpoint(paths)
        with endpoint.bind() as control:  # before any server is started: what is in the way there ends this daemon
            try:
                return run(paths, lock, loaded, overrides, sockets, (endpoint, control))
            finally:
                endpoint.remove()
    finally:
        lock.release()


def _listen_early(plan: GatewayPlan) -> list[socket.socket]:
    """Listen for hosts, who wait until they are served; what is in the way is told later, and tried again."""
    if plan.enabled:
        with suppress(OSError, ValueError):
            return listening(plan.listen)
    return []
