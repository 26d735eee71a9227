"""`moltis mcp tools` and `call`: what can be called, and a call, its result byte for byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.cli.mcp.arguments import Argument, assemble, parse
from moltis.cli.table import Cell, cut, render
from moltis.errors import ExitCode, UsageError

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
    """Return the arguments' names: required ones first as they are, optional ones in brackets."""
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


EXAMPLE = "moltis mcp call SERVER.TOOL key=value, or --json '{\"key\": 1}'"


@command("call")
@click.argument("target", metavar="SERVER.TOOL", shell_complete=lambda ctx, _param, word: _complete(ctx, word))
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--json", "document", metavar="JSON", help="All arguments as one JSON object; `-` reads it from stdin.")
@click.option("--text", is_flag=True, help="Print the text of the result instead of its JSON.")
@click.option("--timeout", "timeout_secs", type=click.FloatRange(min=0.05), metavar="SECS", help="Give up after this.")
@click.pass_context
def call(
    ctx: click.Context,
    target: str,
    words: tuple[str, ...],
    document: str | None,
    text: bool,
    timeout_secs: float | None,
) -> int:
    """Call a tool and print its result exactly as the server sent it.

    A VALUE becomes what the tool's input schema asks for: number, boolean, array, object or string. KEY:=JSON gives the
    value as JSON. A key given twice makes an array where the schema wants one. Exits 1 when the result says `isError`.
    """
    server, dot, tool = target.partition(".")
    if not (server and dot and tool):
        raise UsageError(f"{target!r} is not SERVER.TOOL", hint=EXAMPLE)
    if words and document is not None:
        raise UsageError("arguments are given either as KEY=VALUE or as --json, not both", hint=EXAMPLE)
    given = [parse(word) for word in words]
    params: dict[str, Any] = {"server": server, "tool": tool, "arguments": _from_json(document)}
    if timeout_secs is not None:
        params["timeout_secs"] = timeout_secs
    with link.connect(ctx, link.call_limit(timeout_secs)) as daemon:
        if given:
            params["arguments"] = assemble(given, _schema(daemon, server, tool, given))
        raw = daemon.call_raw("mcp.call", params)
    result = json.loads(raw)
    if text:
        _print_text(result)
    else:
        screen.data_bytes(raw)
    return ExitCode.FAILURE if isinstance(result, dict) and result.get("isError") is True else ExitCode.OK


def _complete(ctx: click.Context, word: str) -> list[str]:
    from moltis.cli.link import tool_names

    return tool_names(ctx, word)


def _from_json(document: str | None) -> dict[str, Any]:
    if document is None:
        return {}
    try:
        value = json.loads(sys.stdin.read() if document == "-" else document)
    except ValueError as error:
        raise UsageError(f"--json: not JSON: {error}", hint=EXAMPLE) from None
    if not isinstance(value, dict):
        raise UsageError("--json: the arguments must be a JSON object", hint=EXAMPLE)
    return value


def _schema(daemon: link.Daemon, server: str, tool: str, given: list[Argument]) -> dict[str, Any]:
    """Ask for the tool's input schema when a value's type depends on it; a tool not listed has none."""
    if not any(argument.is_text for argument in given):
        return {}
    for listed in daemon.call("mcp.tools", {"name": server}):
        if listed.get("name") == tool and isinstance(listed.get("inputSchema"), dict):
            schema: dict[str, Any] = listed["inputSchema"]
            return schema
    return {}


def _print_text(result: Any) -> None:
    content = result.get("content") if isinstance(result, dict) else None
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            words = block["text"]
            screen.data(screen.printable(words) if sys.stdout.isatty() else words)
        elif isinstance(block, dict):
            screen.talk(f"moltis: a part of type {screen.one_line(str(block.get('type')))} is not text")
