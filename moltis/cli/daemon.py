"""`moltis run`, `reload` and `stop`: the daemon as a whole."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import time

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option
from moltis.errors import DaemonNotRunning, RequestTimeout


@command("run")
@click.pass_context
def run(ctx: click.Context) -> int:
    """Run the daemon in the foreground, until SIGTERM, SIGINT or `moltis stop`."""
    # Hundreds of modules are about to be imported, and stay: a collection of them finds nothing, a dozen times. The
    # daemon switches it on again once it is up.
    gc.disable()
    from moltis.daemon import main

    return int(main(link.paths(ctx)))


CHANGES = ("added", "changed", "removed", "unchanged")


@command("reload")
@json_option
@click.pass_context
def reload(ctx: click.Context, as_json: bool) -> None:
    """Read moltis.toml again and print what became of each server; only what changed restarts."""
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        result = daemon.call("daemon.reload")
    if as_json:
        screen.data_json(result)
        return
    for kind in CHANGES:
        screen.data(f"{kind + ':':<10} {screen.one_line(', '.join(result.get(kind) or [])) or '-'}")


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
