"""`moltis mcp tools`: what can be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.cli.table import Cell, cut, render

HEADER = ("TOOL", "ARGUMENTS", "DESCRIPTION")
DESCRIPTION_COLUMN = 2


@command("tools")
@server_argument(required=False)
@json_option
@click.pass_context
def tools(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """List the tools of all servers, or of one; `--json` gives them as the servers sent them."""
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        listed = daemon.call("mcp.tools", {"name": name} if name else {})
    if as_json:
        screen.data_json(listed)
        return
    if not listed:
        screen.talk("moltis: no tools")
        screen.talk("hint: moltis status")
        return
    width, colour = screen.width(), screen.coloured()
    room = None if width is None else width // 3
    rows: list[list[str | Cell]] = [
        [Cell(_name(t), "bold"), _signature(t) if room is None else cut(_signature(t), room), _summary(t)]
        for t in listed
    ]
    screen.data("\n".join(render(HEADER, rows, width=width, shrink=DESCRIPTION_COLUMN, colour=colour)))


def _name(tool: Mapping[str, Any]) -> str:
    return screen.one_line(f"{tool['server']}.{tool['name']}")


def _signature(tool: Mapping[str, Any]) -> str:
    """Give the arguments' names: required ones first as they are, optional ones in brackets."""
    schema = tool.get("inputSchema")
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return ""
    properties, required = schema["properties"], schema.get("required")
    wanted = [n for n in properties if isinstance(required, list) and n in required]
    words = wanted + [f"[{n}]" for n in properties if n not in wanted]
    return screen.one_line(" ".join(words))


def _summary(tool: Mapping[str, Any]) -> str:
    text = tool.get("description") or tool.get("title") or ""
    return screen.one_line(str(text).strip().partition("\n")[0])
