"""`moltis reload`: what the daemon made of the file."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option

KINDS = ("added", "changed", "removed", "unchanged")


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
    for kind in KINDS:
        screen.data(f"{kind + ':':<10} {screen.one_line(', '.join(result.get(kind) or [])) or '-'}")
