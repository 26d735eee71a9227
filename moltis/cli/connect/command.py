"""`moltis connect` by click: its help, and what is said about words that are wrong. Hosts come by `quick`."""

from __future__ import annotations

import click

from moltis.cli import link
from moltis.cli.commands import command
from moltis.cli.link import project_names, server_names
from moltis.errors import UsageError


@command("connect")
@click.option(
    "--server",
    metavar="NAME",
    help="Only this server, as it is.",
    shell_complete=lambda ctx, _param, word: server_names(ctx, word),
)
@click.option("--run", is_flag=True, help="Start the daemon where none runs.")
@click.option(
    "--project",
    metavar="NAME",
    help="What this project gets. Default: the project that the current folder is in, or CLAUDE_PROJECT_DIR.",
    shell_complete=lambda ctx, _param, word: project_names(ctx, word),
)
@click.pass_context
def connect(ctx: click.Context, server: str | None, run: bool, project: str | None) -> None:
    """Be an MCP server on stdin and stdout: all servers of the running daemon as one, those of a project, or one as it
    is.

    For hosts that start a command: `"command": "moltis", "args": ["connect"]`. It needs no token, and ends when the
    host does. Without a daemon it lists what was last known, says in each call that there is none, and goes on when
    there is one. With --run it starts it, by the service manager where that looks after it, and lets it run on.
    """
    for option, name, hint in (("--server", server, "moltis mcp list"), ("--project", project, "moltis project list")):
        if name is not None and not name:
            raise UsageError(f"{option} needs a name", hint=hint)
    if server is not None and project is not None:
        raise UsageError("--server and --project: one of them", hint="moltis connect --help")
    from moltis.cli.connect.quick import serve, wanted

    paths = link.paths(ctx)
    named = {name: value for name, value in (("server", server), ("project", project)) if value is not None}
    serve(str(paths.socket), wanted(named), {"config": str(paths.config), "data_dir": str(paths.data_dir)}, run=run)
