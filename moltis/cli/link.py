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
"""For what first stops a server: its stop may take `stop_eof_secs + stop_term_secs`."""

TEST_SECS = 300.0
"""For a try of a server: npx may be downloading it; the daemon ends it after `startup_timeout_secs`."""

COMPLETION_SECS = 0.5
"""A person is waiting at a half-typed word."""

GRACE_SECS = 5.0
"""The daemon times a call itself, and names the reason; this much later it is taken for stuck."""


def paths(ctx: click.Context) -> Paths:
    """Give the paths that the global options, the environment and the defaults name."""
    meta: dict[str, Any] = ctx.find_root().meta
    return find_paths(
        config=meta.get("moltis.global_config"),
        data_dir=meta.get("moltis.global_data_dir"),
        socket=meta.get("moltis.global_socket"),
    )


def connect(ctx: click.Context, timeout_secs: float = REPLY_SECS) -> Daemon:
    """Open a connection, which is a context manager; `timeout_secs` bounds each reply.

    Raises:
        DaemonNotRunning: nothing listens.
        NotPermitted: the socket or the daemon refuses this user.
    """
    return client.connect(paths(ctx).socket, timeout_secs)
