"""`moltis mcp list` and `moltis mcp get`: status, without its judgement in the exit code."""

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
