"""`moltis mcp test`: one try of a server, or one question to the one that runs; nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.errors import ExitCode


@command("test")
@server_argument()
@click.option("--copy", is_flag=True, help="Start a copy even if the server is running; some allow only one.")
@json_option
@click.pass_context
def test(ctx: click.Context, name: str, copy: bool, as_json: bool) -> int:
    """Ask a server that is running for its tools; start one that is not once, list its tools, and end it.

    Exits 1 when it fails, and says what mends it.
    """
    # No bound: the daemon ends the try after the server's startup_timeout_secs, which may be of any length.
    with link.connect(ctx, None) as daemon:
        result = daemon.call("mcp.test", {"name": name, "copy": True} if copy else {"name": name})
    if as_json:
        screen.data_json(result)
    else:
        screen.data(screen.one_line(_words(name, result)))
        for hint in result.get("hints") or []:
            screen.talk(f"hint: {screen.one_line(hint)}")
    return ExitCode.OK if result["ok"] else ExitCode.FAILURE


def _words(name: str, result: Mapping[str, Any]) -> str:
    if not result["ok"]:
        return f"{name}: failed: {result['error']}"
    info = result.get("server_info") or {}
    who = " ".join(str(info[k]) for k in ("name", "version") if info.get(k))
    which = ", the running one" if result.get("running") else ""
    return (
        f"{name}: ok, {result['tool_count']} tools in {result['latency_ms']:.0f} ms,"
        f" MCP {result['protocol_version']}{', ' if who else ''}{who}{which}"
    )
