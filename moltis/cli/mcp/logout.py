"""`moltis mcp logout`: tokens are given back and forgotten."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, server_argument


@command("logout")
@server_argument(nargs=-1, required=True)
@click.option(
    "--forget-client",
    is_flag=True,
    help="End the registration of moltis too, where it made one; the next login makes another.",
)
@click.pass_context
def logout(ctx: click.Context, name: tuple[str, ...], forget_client: bool) -> None:
    """Log out of remote servers: revoke their tokens where that can be, and forget them.

    Each then waits for a login; none begins by itself until moltis mcp reauth, or the next start of the daemon.
    """
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        for server in name:
            daemon.call("mcp.logout", {"name": server, **({"forget_client": True} if forget_client else {})})
            screen.talk(f"moltis: logged out of {server}; moltis mcp reauth {server} logs in again")
