"""`moltis mcp start`, `stop` and `restart`: until the daemon ends; nothing is written to moltis.toml."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, server_argument

DONE = {"start": "started", "stop": "stopped", "restart": "restarted"}


def _each(ctx: click.Context, verb: str, names: tuple[str, ...]) -> None:
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        for name in names:
            daemon.call(f"mcp.{verb}", {"name": name})
            screen.talk(f"moltis: {DONE[verb]} {name}")


@command("start")
@server_argument(nargs=-1, required=True)
@click.pass_context
def start(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Start servers that were stopped; `moltis status NAME` tells when they are ready."""
    _each(ctx, "start", name)


@command("stop")
@server_argument(nargs=-1, required=True)
@click.pass_context
def stop(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Stop servers until they are started again, or the daemon is."""
    _each(ctx, "stop", name)


@command("restart")
@server_argument(nargs=-1, required=True)
@click.pass_context
def restart(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Restart servers and forget their failures."""
    _each(ctx, "restart", name)
