"""`moltis config path`: where everything is."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option


@command("path")
@json_option
@click.pass_context
def path(ctx: click.Context, as_json: bool) -> None:
    """Show every path that this command line would use."""
    paths = link.paths(ctx)
    named = {
        "config": str(paths.config),
        "data_dir": str(paths.data_dir),
        "socket": str(paths.socket),
        "log": str(paths.log),
        "oauth_dir": str(paths.oauth_dir),
        "env_overrides": str(paths.env_overrides),
    }
    if as_json:
        screen.data_json(named)
        return
    for key, value in named.items():
        screen.data(f"{key:<14} {screen.printable(value)}")
