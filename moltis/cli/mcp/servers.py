"""`moltis mcp list`, `get`, `start`, `stop`, `restart`, `enable`, `disable`, `remove`: what is done with servers.

What is written to moltis.toml is written by hand where no daemon runs; a start or stop holds until the daemon ends.
"""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.cli.status import show_not_running, show_server, show_table
from moltis.errors import DaemonNotRunning, ExitCode


@command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> int:
    """List the servers and their state; with the daemon down, those of moltis.toml (exit 3)."""
    try:
        with link.connect(ctx) as daemon:
            servers = daemon.call("mcp.list")
    except DaemonNotRunning as error:
        return show_not_running(ctx, as_json, error.message)
    if as_json:
        screen.data_json(servers)
    elif servers:
        show_table(servers)
    else:
        screen.talk("moltis: no servers")
        screen.talk("hint: moltis mcp add NAME -- COMMAND ARGS...")
    return ExitCode.OK


@command("get")
@server_argument()
@json_option
@click.pass_context
def get(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show everything about one server but its secrets."""
    with link.connect(ctx) as daemon:
        show_server(daemon.call("mcp.status", {"name": name}), as_json)


DONE = {
    "start": "started",
    "stop": "stopped",
    "restart": "restarted",
    "remove": "removed",
    "enable": "enabled",
    "disable": "disabled",
}


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


def _change(ctx: click.Context, verb: str, names: tuple[str, ...]) -> None:
    try:
        _each(ctx, verb, names)
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
    _change(ctx, "remove", name)


@command("enable")
@server_argument(nargs=-1, required=True)
@click.pass_context
def enable(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Enable servers, in moltis.toml too; also forgets their failures."""
    _change(ctx, "enable", name)


@command("disable")
@server_argument(nargs=-1, required=True)
@click.pass_context
def disable(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Stop servers and disable them, in moltis.toml too."""
    _change(ctx, "disable", name)
