"""`moltis why`: the history of one server, in words."""

from __future__ import annotations

from datetime import datetime

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument


@command("why")
@server_argument()
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), help="Tell only so many transitions, the last ones.")
@json_option
@click.pass_context
def why(ctx: click.Context, name: str, limit: int | None, as_json: bool) -> None:
    """Tell what happened to a server, oldest first, and what comes next."""
    with link.connect(ctx) as daemon:
        status = daemon.call("mcp.status", {"name": name})
        history = daemon.call("mcp.history", {"name": name} if limit is None else {"name": name, "limit": limit})
    if as_json:
        screen.data_json({"status": status, "history": history})
        return
    import msgspec

    from moltis.server.status import HistoryEntry, ServerStatus
    from moltis.server.story import tell

    entries = msgspec.convert(history, list[HistoryEntry])
    for line in tell(msgspec.convert(status, ServerStatus), entries, datetime.now().astimezone()):
        screen.data(screen.indented(line))
