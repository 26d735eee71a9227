"""`moltis why`: the history of one server, in words."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument


@command("why")
@server_argument()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Transitions to tell.")
@json_option
@click.pass_context
def why(ctx: click.Context, name: str, limit: int, as_json: bool) -> None:
    """Tell what happened to a server, oldest first, and what comes next."""
    with link.connect(ctx) as daemon:
        status = daemon.call("mcp.status", {"name": name})
        history = daemon.call("mcp.history", {"name": name, "limit": limit})
    if as_json:
        screen.data_json({"status": status, "history": history})
        return
    import msgspec

    from moltis.server.status import HistoryEntry, ServerStatus
    from moltis.server.story import tell

    screen.data(tell(msgspec.convert(status, ServerStatus), msgspec.convert(history, list[HistoryEntry])))
