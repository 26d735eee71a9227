"""`moltis mcp remove`, `enable` and `disable`: moltis.toml, through the daemon when it runs and by hand otherwise."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, server_argument
from moltis.errors import DaemonNotRunning

DONE = {"remove": "removed", "enable": "enabled", "disable": "disabled"}


def _each(ctx: click.Context, verb: str, names: tuple[str, ...]) -> None:
    try:
        with link.connect(ctx, link.CHANGE_SECS) as daemon:
            for name in names:
                daemon.call(f"mcp.{verb}", {"name": name})
                screen.talk(f"moltis: {DONE[verb]} {name}")
    except DaemonNotRunning:
        from moltis.cli import offline

        for name in names:
            offline.change_server(link.paths(ctx), verb, name)
            screen.talk(f"moltis: {DONE[verb]} {name} in {link.paths(ctx).config}")


@command("remove")
@server_argument(nargs=-1, required=True)
@click.pass_context
def remove(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Stop servers and take them out of moltis.toml."""
    _each(ctx, "remove", name)


@command("enable")
@server_argument(nargs=-1, required=True)
@click.pass_context
def enable(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Enable servers, in moltis.toml too; also forgets their failures."""
    _each(ctx, "enable", name)


@command("disable")
@server_argument(nargs=-1, required=True)
@click.pass_context
def disable(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Stop servers and disable them, in moltis.toml too."""
    _each(ctx, "disable", name)
