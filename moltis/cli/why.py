"""`moltis why`: the history of one server, in words; or why a host does not see one of its tools."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option
from moltis.errors import ExitCode, UsageError

HOSTS = ("claude-code", "codex", "cursor", "vscode", "gemini", "zed")
"""As `gateway.visibility` knows them, which is imported when it is asked."""


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return link.tool_names(ctx, incomplete) if "." in incomplete else link.server_names(ctx, incomplete)


@command("why")
@click.argument("name", metavar="NAME[.TOOL]", shell_complete=_complete)
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), help="Tell only so many transitions, the last ones.")
@click.option(
    "--project",
    metavar="PROJECT",
    help="Of a tool: at /mcp/PROJECT.",
    shell_complete=lambda ctx, _param, word: link.project_names(ctx, word),
)
@click.option("--host", type=click.Choice(HOSTS), help="Of a tool: in this host, which may take less than others.")
@json_option
@click.pass_context
def why(
    ctx: click.Context, name: str, limit: int | None, project: str | None, host: str | None, as_json: bool
) -> int | None:
    """Tell what happened to a server, oldest first, and what comes next.

    Of SERVER.TOOL: whether hosts see it, under which name, or why not, each with what changes it. Exits 1 if they do
    not.
    """
    server, dot, tool = name.partition(".")
    if dot and tool:
        return _why_tool(ctx, server, tool, project, host, as_json)
    if project is not None or host is not None:
        raise UsageError("--project and --host are of one tool", hint=f"moltis why {server}.TOOL")
    with link.connect(ctx) as daemon:
        status = daemon.call("mcp.status", {"name": name})
        history = daemon.call("mcp.history", {"name": name} if limit is None else {"name": name, "limit": limit})
    if as_json:
        screen.data_json({"status": status, "history": history})
        return None
    import msgspec

    from moltis.server.status import HistoryEntry, ServerStatus
    from moltis.server.story import tell

    entries = msgspec.convert(history, list[HistoryEntry])
    for line in tell(msgspec.convert(status, ServerStatus), entries, datetime.now().astimezone()):
        screen.data(screen.indented(line))
    return None


def _why_tool(ctx: click.Context, server: str, tool: str, project: str | None, host: str | None, as_json: bool) -> int:
    with link.connect(ctx) as daemon:
        status = daemon.call("mcp.status", {"name": server})
        tools: list[dict[str, Any]] = daemon.call("mcp.tools")
        config = daemon.call("daemon.status")["config_path"]
    import msgspec

    from moltis.config.load import load
    from moltis.gateway.visibility import explain
    from moltis.server.states import State
    from moltis.server.status import ServerStatus

    offered: dict[str, list[str]] = {}
    for each in tools:
        offered.setdefault(str(each["server"]), []).append(str(each["name"]))
    found = msgspec.convert(status, ServerStatus)
    if found.state == State.READY:
        offered.setdefault(server, [])
    item = next((each for each in tools if (each["server"], each["name"]) == (server, tool)), None)
    listed = None if item is None else msgspec.json.encode({key: each for key, each in item.items() if key != "server"})
    answer = explain(load(Path(config), {}, os.environ).plan, found, tool, offered, project, host, listed)
    if as_json:
        screen.data_json(msgspec.to_builtins(answer))
    else:
        where = f" by {host}" if host else ""
        seen = (
            f"is seen{where} at {answer.path} as {answer.name}"
            if answer.seen
            else f"is not seen{where} at {answer.path}"
        )
        screen.data(screen.one_line(f"{server}.{tool} {seen}"))
        for reason in answer.reasons:
            screen.data(f"  {screen.one_line(reason.told)}")
            screen.data(f"    {screen.one_line(reason.mends)}")
    return ExitCode.OK if answer.seen else ExitCode.FAILURE
