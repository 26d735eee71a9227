"""The way to the daemon: which files are its own, and one short conversation over its socket."""

from __future__ import annotations

from typing import Any

import click

from moltis.control import client
from moltis.paths import Paths, find_paths

Daemon = client.Client

REPLY_SECS = 10.0
"""The daemon answers from memory within milliseconds; after this it is stuck, and waiting longer is no use."""

CHANGE_SECS = 60.0
"""For what first stops a server (`stop_eof_secs + stop_term_secs`), or waits for one that is starting."""

COMPLETION_SECS = 0.5
"""A person is waiting at a half-typed word."""

GRACE_SECS = 5.0
"""The daemon times a call itself, and names the reason; this much later it is taken for stuck."""


def call_limit(timeout_secs: float | None) -> float | None:
    """Return how long to wait for a tool call: twice its time, for the server may have to become ready first.

    None for None: the daemon ends every request at its own cap, which may be of any length.
    """
    return None if timeout_secs is None else 2 * timeout_secs + GRACE_SECS


def paths(ctx: click.Context) -> Paths:
    """Return the paths that the global options, the environment and the defaults name."""
    meta: dict[str, Any] = ctx.find_root().meta
    return find_paths(
        config=meta.get("moltis.global_config"),
        data_dir=meta.get("moltis.global_data_dir"),
        socket=meta.get("moltis.global_socket"),
    )


def connect(ctx: click.Context, timeout_secs: float | None = REPLY_SECS) -> Daemon:
    """Open a connection, which is a context manager; `timeout_secs` bounds each reply (None: no bound).

    Raises:
        DaemonNotRunning: nothing listens.
        NotPermitted: the socket or the daemon refuses this user.
    """
    return client.connect(paths(ctx).socket, timeout_secs)


def server_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the servers of the running daemon that begin so; none when it cannot be asked quickly."""
    return _names(ctx, incomplete, "mcp.list", "{name}")


def project_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the projects of the running daemon that begin so; none when it cannot be asked quickly."""
    return _names(ctx, incomplete, "project.list", "{name}")


def tool_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Return `SERVER.TOOL` for every tool that begins so; none when they cannot be asked quickly."""
    return _names(ctx, incomplete, "mcp.tools", "{server}.{name}")


def _names(ctx: click.Context, incomplete: str, method: str, form: str) -> list[str]:
    """Return the names of what a method lists. form: what each is called, by its members."""
    try:
        with connect(ctx, COMPLETION_SECS) as daemon:
            names = [form.format_map(item) for item in daemon.call(method)]
    except Exception:  # a shell's completion must stay silent, whatever is wrong
        return []
    return [name for name in names if name.startswith(incomplete)]
