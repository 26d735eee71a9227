"""`moltis mcp reauth`: a person logs in."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument


@command("reauth")
@server_argument()
@json_option
@click.pass_context
def reauth(ctx: click.Context, name: str, as_json: bool) -> None:
    """Log in to a remote server: opens the browser, and prints the address to open if it does not."""
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        result = daemon.call("mcp.reauth", {"name": name})
    if as_json:
        screen.data_json(result)
    elif result.get("auth_url"):
        screen.talk("moltis: open this address to log in:")
        screen.data(screen.one_line(str(result["auth_url"])))
    else:
        screen.talk(f"moltis: {name} is logged in")
