"""Making a connection of the control socket an MCP host's."""

from __future__ import annotations

from moltis.control.api import DaemonApi
from moltis.control.registry import Caller
from moltis.errors import Busy, MoltisError
from moltis.gateway.lines import LineHost


def hand_over(server: str | None, daemon: DaemonApi, caller: Caller) -> None:
    """Give the connection of `caller` to a host of all servers, or of one, once this request is answered.

    Raises:
        UnknownServer: there is none of that name.
        Busy: the gateway is not open yet, or not any more.
        MoltisError: there is no gateway, or the connection is not free.
    """
    gateway = daemon.gateway()
    if gateway is None:
        raise MoltisError("this daemon runs without its gateway", hint="[gateway] enabled = true in moltis.toml")
    if gateway.is_closed:
        raise Busy("the daemon is stopping", hint="try again in a moment")
    caller.hand_over(lambda conn: LineHost(conn, gateway, server))
