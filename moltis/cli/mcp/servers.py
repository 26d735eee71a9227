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


def _verb(verb: str, done: str, help: str, *, is_written: bool = False) -> click.Command:
    """Make the command that does something with servers, one after the other.

    done: what is said of each. is_written: to moltis.toml, and so it can be done where no daemon runs.
    """

    @command(verb, help=help)
    @server_argument(nargs=-1, required=True)
    @click.pass_context
    def run(ctx: click.Context, name: tuple[str, ...]) -> None:
        try:
            with link.connect(ctx, link.CHANGE_SECS) as daemon:
                for each in name:
                    daemon.call(f"mcp.{verb}", {"name": each})
                    screen.talk(f"moltis: {done} {each}")
        except DaemonNotRunning:
            if not is_written:
                raise
            from moltis.cli import offline

            for each in name:
                offline.change_server(link.paths(ctx), verb, each)
                screen.talk(f"moltis: {done} {each} in {link.paths(ctx).config}")

    return run


start = _verb("start", "started", "Start servers that were stopped; `moltis status NAME` tells when they are ready.")
stop = _verb("stop", "stopped", "Stop servers until they are started again, or the daemon is.")
restart = _verb("restart", "restarted", "Restart servers and forget their failures.")
remove = _verb("remove", "removed", "Stop servers and take them out of moltis.toml.", is_written=True)
enable = _verb("enable", "enabled", "Enable servers, in moltis.toml too; also forgets their failures.", is_written=True)
disable = _verb("disable", "disabled", "Stop servers and disable them, in moltis.toml too.", is_written=True)
