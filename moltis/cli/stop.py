"""`moltis stop`: ask the daemon to end, and wait until it has."""

from __future__ import annotations

import contextlib
import os
import select
import time

import click

from moltis.cli import link, screen
from moltis.cli.commands import command
from moltis.errors import DaemonNotRunning, RequestTimeout

POLL_SECS = 0.05
"""Where there is no pidfd (macOS), the process is looked for this often."""


@command("stop")
@click.option(
    "--timeout",
    "timeout_secs",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECS",
    help="How long to wait for the end.",
)
@click.pass_context
def stop(ctx: click.Context, timeout_secs: float) -> None:
    """Stop all servers and the daemon, and wait until it is gone."""
    with link.connect(ctx) as daemon:
        pid = int(daemon.call("daemon.status")["pid"])
        # Opened before the daemon is told: its number cannot become another process's meanwhile (pidfd_open(2)).
        pidfd = _open_pidfd(pid)
        # That it hangs up instead of answering is an answer too: it is on its way out.
        with contextlib.suppress(DaemonNotRunning):
            daemon.call("daemon.shutdown")
    try:
        gone = _wait_gone(pid, pidfd, timeout_secs)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if not gone:
        raise RequestTimeout(
            f"the daemon (pid {pid}) is still stopping after {timeout_secs:g}s", hint=f"kill {pid} ends it at once"
        )
    screen.talk("moltis: stopped")


def _open_pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _wait_gone(pid: int, pidfd: int | None, timeout_secs: float) -> bool:
    if pidfd is not None:
        return bool(select.select([pidfd], [], [], timeout_secs)[0])
    deadline = time.monotonic() + timeout_secs
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(POLL_SECS)
    return False
