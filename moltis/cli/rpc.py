"""`moltis rpc`: any method of the control socket, for scripts and for the curious."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command
from moltis.cli.table import render
from moltis.errors import UsageError


@command("rpc")
@click.argument("method", required=False, shell_complete=lambda ctx, _param, word: _complete_methods(ctx, word))
@click.argument("params", metavar="[JSON]", required=False)
@click.option("--list", "list_methods", is_flag=True, help="List the methods of the running daemon.")
@click.option("--timeout", "timeout_secs", type=click.FloatRange(min=0.05), metavar="SECS", help="Give up after this.")
@click.pass_context
def rpc(
    ctx: click.Context, method: str | None, params: str | None, list_methods: bool, timeout_secs: float | None
) -> None:
    """Call METHOD with the JSON object as its params (`-` reads it from stdin) and print the result as it came."""
    if list_methods:
        _list_methods(ctx)
        return
    if method is None:
        raise UsageError("no method given", hint="moltis rpc --list")
    given = _params(params)
    # Without --timeout there is no bound: how long a method may take is the daemon's to know.
    with link.connect(ctx) as daemon:
        screen.data_bytes(daemon.call_raw(method, given, timeout_secs))


def _params(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise UsageError(
            f"the params are not JSON: {error}", hint='moltis rpc mcp.status \'{"name": "files"}\''
        ) from None
    if not isinstance(value, dict):
        raise UsageError("the params must be a JSON object: every method takes them by name")
    return value


def _methods(ctx: click.Context, timeout_secs: float) -> list[tuple[str, str]]:
    with link.connect(ctx, timeout_secs) as daemon:
        document = daemon.call("rpc.discover")
    return [(str(m["name"]), str(m.get("summary") or "")) for m in document["methods"]]


def _list_methods(ctx: click.Context) -> None:
    for line in render(("METHOD", "SUMMARY"), _methods(ctx, link.REPLY_SECS), colour=screen.coloured()):
        screen.data(screen.printable(line) if not screen.coloured() else line)


def _complete_methods(ctx: click.Context, word: str) -> list[str]:
    try:
        return [name for name, _ in _methods(ctx, link.COMPLETION_SECS) if name.startswith(word)]
    except Exception:  # a shell's completion must stay silent, whatever is wrong
        return []
