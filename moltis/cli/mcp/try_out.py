"""`moltis mcp test`: one try of a server, or one question to the one that runs; nothing is kept.

With `--sdk` it is tried a second time, by the official SDK's client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.errors import ExitCode

SHOWN_NAMES = 10


@command("test")
@server_argument()
@click.option("--copy", is_flag=True, help="Start a copy even if the server is running; some allow only one.")
@click.option("--sdk", is_flag=True, help="Start a copy, and another by the official Python SDK's client.")
@json_option
@click.pass_context
def test(ctx: click.Context, name: str, copy: bool, sdk: bool, as_json: bool) -> int:
    """Ask a server that is running for its tools; start one that is not once, list its tools, and end it.

    Exits 1 when it fails, and says what mends it. With --sdk also when the SDK's client fails or finds something else,
    but for a protocol revision that is meant to differ.
    """
    # No bound: the daemon ends the try after the server's startup_timeout_secs, which may be of any length.
    with link.connect(ctx, None) as daemon:
        asked = {key: True for key, wanted in (("copy", copy), ("sdk", sdk)) if wanted}
        result = daemon.call("mcp.test", {"name": name, **asked})
    if as_json:
        screen.data_json(result)
    elif not sdk:
        screen.data(screen.one_line(_words(name, result)))
    else:
        head, *lines = _both(name, result)
        screen.data(screen.one_line(head))
        for line in lines:
            screen.data("  " + screen.one_line(line))
    if not as_json:
        for hint in result.get("hints") or []:
            screen.talk(f"hint: {screen.one_line(hint)}")
    return ExitCode.OK if _is_well(result) else ExitCode.FAILURE


def _is_well(result: Mapping[str, Any]) -> bool:
    by_sdk = result.get("sdk")
    if by_sdk is None:
        return bool(result["ok"])
    return bool(result["ok"] and by_sdk["ok"] and all(each["expected"] for each in result["differences"]))


def _words(name: str, result: Mapping[str, Any]) -> str:
    if not result["ok"]:
        return f"{name}: failed: {result['error']}"
    tools = f"{result['tool_count']} tools"
    return f"{name}: ok, {_found(result, [tools])}"


def _both(name: str, result: Mapping[str, Any]) -> list[str]:
    by_sdk = result.get("sdk")
    if by_sdk is None:
        return [_words(name, result)]
    version = by_sdk.get("sdk_version")
    lines = [
        _one("moltis", result),
        _one(f"the Python SDK{f' {version}' if version else ''}", by_sdk),
    ]
    differ = [f"differs: {_difference(each)}" for each in result["differences"]]
    if result["ok"] and by_sdk["ok"] and not differ:
        differ = ["both found the same"]
    return [f"{name}:", *lines, *differ]


def _one(who: str, tried: Mapping[str, Any]) -> str:
    if not tried["ok"]:
        return f"{who}: failed: {tried['error']}"
    counts = [f"{tried[f'{member}_count']} {word}" for member, word in _COUNTED if tried.get(f"{member}_count")]
    note = f" ({tried['note']})" if tried.get("note") else ""
    return f"{who}: ok, {_found(tried, counts or ['no tools'])}{note}"


_COUNTED = (
    ("tool", "tools"),
    ("resource", "resources"),
    ("resource_template", "resource templates"),
    ("prompt", "prompts"),
)


def _found(tried: Mapping[str, Any], counts: Sequence[str]) -> str:
    info = tried.get("server_info") or {}
    who = " ".join(str(info[k]) for k in ("name", "version") if info.get(k))
    took = f"{tried['latency_ms']:.0f} ms"
    which = ", the running one" if tried.get("running") else ""
    return f"{', '.join(counts)} in {took}, MCP {tried['protocol_version']}{', ' if who else ''}{who}{which}"


def _difference(each: Mapping[str, Any]) -> str:
    what = each["what"].replace("_", " ")
    told = f"{what}: moltis {each['moltis'] or 'none'}, the SDK {each['sdk'] or 'none'}"
    for key, who in (("only_moltis", "moltis"), ("only_sdk", "the SDK")):
        if names := each[key]:
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            told += f"; only {who} has {', '.join(names[:SHOWN_NAMES])}{more}"
    return told + (f" ({each['note']})" if each["note"] else "")
