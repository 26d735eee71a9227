"""`moltis logs`: the log as sentences, or as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from moltis import logtail
from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.cli.log_lines import sentence
from moltis.errors import DaemonNotRunning, UnknownServer


@command("logs")
@server_argument(required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n", "--lines", "limit", type=click.IntRange(min=0), default=100, show_default=True, help="Last records."
)
@click.option("--level", type=click.Choice(tuple(logtail.LEVELS)), help="Only this level and above.")
@json_option
@click.pass_context
def logs(ctx: click.Context, name: str | None, follow: bool, limit: int, level: str | None, as_json: bool) -> None:
    """Show the last records of the log, or of one server's; works with the daemon down too.

    `--json` gives them as they are in logs.jsonl, one object a line.
    """
    path = link.paths(ctx).log
    if follow:
        _print(logtail.follow(path, limit=limit, server=name, level=level), as_json)
        return
    records = logtail.tail(path, limit, server=name, level=level)
    if not records:
        if name is not None:
            _require_known(ctx, name)
        screen.talk(f"moltis: no such records in {path}")
    _print(records, as_json)


def _print(records: Iterable[dict[str, Any]], as_json: bool) -> None:
    colour = screen.coloured()
    for record in records:
        screen.data(json.dumps(record, separators=(",", ":")) if as_json else sentence(record, colour))
        if not isinstance(records, list):
            screen.flush()


def _require_known(ctx: click.Context, name: str) -> None:
    """Tell a server that said nothing from one that does not exist."""
    try:
        with link.connect(ctx) as daemon:
            known = [str(server["name"]) for server in daemon.call("mcp.list")]
    except DaemonNotRunning:
        from moltis.cli.configured import read_servers

        known = [server.name for server in read_servers(link.paths(ctx).config).servers]
    if name not in known:
        raise UnknownServer(name, known)
