"""`moltis connect` by click: its help, and what is said about words that are wrong. Hosts come by `quick`."""

from __future__ import annotations

import click

from moltis.cli import link
from moltis.cli.commands import command
from moltis.cli.link import server_names
from moltis.errors import UsageError


@command("connect")
@click.option(
    "--server",
    metavar="NAME",
    help="Only this server, as it is.",
    shell_complete=lambda ctx, _param, word: server_names(ctx, word),
)
@click.option("--run", is_flag=True, help="Start the daemon where none runs.")
@click.option("--project", metavar="NAME", help="Not in this version yet.")
@click.pass_context
def connect(ctx: click.Context, server: str | None, run: bool, project: str | None) -> None:
    """Be an MCP server on stdin and stdout: all servers of the running daemon as one, or one as it is.

    For hosts that start a command: `"command": "moltis", "args": ["connect"]`. It needs no token, and ends when the
    host does. Without a daemon it lists what was last known, says in each call that there is none, and goes on when
    there is one. With --run it starts it, by the service manager where that looks after it, and lets it run on.
    """
    if project is not None:
        raise UsageError(
            "projects are not supported by this version yet", hint="leave --project out, or name one --server"
        )
    if server is not None and not server:
        raise UsageError("--server needs a name", hint="moltis mcp list")
    from moltis.cli.connect.quick import serve

    paths = link.paths(ctx)
    wanted = {} if server is None else {"server": server}
    serve(str(paths.socket), wanted, {"config": str(paths.config), "data_dir": str(paths.data_dir)}, run=run)
