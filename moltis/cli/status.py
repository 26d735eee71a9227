"""`moltis status`: the daemon in one line, its servers in a table, and what mends each that is not well."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from moltis import __version__
from moltis.cli import link, phrases, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.cli.table import Cell, paint, render
from moltis.errors import DaemonNotRunning, ExitCode
from moltis.server.states import SETTLING, State

OFFERING = frozenset({State.READY, State.IDLE})
"""Where a server has something for hosts: what it lists, or listed when it was last ready."""

HEADER = ("NAME", "TRANSPORT", "TOOLS", "STATUS", "UP/RESTARTS", "ACTION")
STATUS_COLUMN = 3

WATCH_SECS = 1.0
"""How often `--watch` looks again: once a second is as fast as its countdowns change."""

DAEMON_SECS = 60.0
"""How long `--wait` waits for the daemon itself."""
WAIT_SECS = 660.0
"""How long it waits for servers: longer than one that works may take to start, unless moltis.toml says otherwise."""
WAIT_LOOK_SECS = 0.1


@command("status")
@server_argument(required=False)
@json_option
@click.option("--savings", is_flag=True, help="Show what sharing and on demand save in memory.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option("--wait", is_flag=True, help="Wait for the daemon, and until no server is starting.")
@click.option("--timeout", type=float, default=WAIT_SECS, help="For --wait, in seconds.", show_default=True)
@click.pass_context
def status(
    ctx: click.Context, name: str | None, as_json: bool, savings: bool, watch: bool, wait: bool, timeout: float
) -> int:
    """Show the daemon and its servers, or everything about one server.

    Exits 1 when an enabled server is unhealthy, 3 when the daemon is not running (the configured servers are shown
    then), 7 when --wait has waited for so long and a server is still starting.
    """
    if savings and (name is not None or watch):
        raise click.UsageError("--savings is about all servers, once: leave out NAME and --watch")
    settled = not wait or _wait_settled(ctx, name, timeout)
    if watch:
        return _watch(ctx, name, as_json)
    if savings:
        from moltis.cli.savings import show_savings

        with link.connect(ctx) as daemon:
            code = show_savings(daemon.call("daemon.status"), daemon.call("mcp.list"), as_json)
    else:
        code = _show(ctx, name, as_json)
    return code if settled else ExitCode.TIMEOUT


def _wait_settled(ctx: click.Context, name: str | None, secs: float) -> bool:
    """Wait until the daemon answers and the servers have got somewhere, for better or worse; False: some have not."""
    import time

    began = time.monotonic()
    while (under_way := _under_way(ctx, name)) != []:
        waited = time.monotonic() - began
        if under_way is None and waited >= min(secs, DAEMON_SECS):
            return True  # that there is no daemon is told by what follows
        if under_way and waited >= secs:
            screen.talk(f"still starting after {secs:g} s: {', '.join(under_way)}")
            return False
        time.sleep(WAIT_LOOK_SECS)
    return True


def _under_way(ctx: click.Context, name: str | None) -> list[str] | None:
    """Return which servers are on their way to another state; None without a daemon."""
    try:
        with link.connect(ctx) as daemon:
            servers = [daemon.call("mcp.status", {"name": name})] if name else daemon.call("mcp.list")
    except DaemonNotRunning:
        return None
    return [str(server["name"]) for server in servers if server["state"] in SETTLING]


def _watch(ctx: click.Context, name: str | None, as_json: bool) -> int:
    import time

    while True:
        if sys.stdout.isatty() and not as_json:
            # ECMA-48 CUP and ED: go to the top left corner, clear the screen.
            screen.data("\x1b[H\x1b[2J")
        _show(ctx, name, as_json)
        screen.flush()
        time.sleep(WATCH_SECS)


def _show(ctx: click.Context, name: str | None, as_json: bool) -> int:
    try:
        with link.connect(ctx) as daemon:
            if name:
                return show_server(daemon.call("mcp.status", {"name": name}), as_json)
            return _show_all(daemon.call("daemon.status"), daemon.call("mcp.list"), as_json)
    except DaemonNotRunning as error:
        if name:
            raise
        return show_not_running(ctx, as_json, error.message)


def _show_all(daemon: Mapping[str, Any], servers: Sequence[Mapping[str, Any]], as_json: bool) -> int:
    if as_json:
        screen.data_json({"running": True, "daemon": daemon, "servers": servers})
    else:
        screen.data(headline(daemon, servers))
        for line in gateway_lines(daemon):
            screen.data(line)
        if servers:
            screen.data()
            show_table(servers)
        else:
            screen.talk("hint: moltis mcp add NAME -- COMMAND ARGS...")
    return ExitCode.FAILURE if any(map(phrases.is_unhealthy, servers)) else ExitCode.OK


def headline(daemon: Mapping[str, Any], servers: Sequence[Mapping[str, Any]]) -> str:
    """Return `moltis 0.1.0 - running 2h15m - pid 4711 - ~/.config/moltis/moltis.toml - 4 servers: 4 ready`."""
    parts = (
        f"moltis {daemon['version']}",
        f"running {phrases.duration(daemon['uptime_secs'])}",
        f"pid {daemon['pid']}",
        short_path(daemon["config_path"]),
        phrases.counted(servers),
    )
    return screen.printable(" - ".join(parts))


def gateway_lines(daemon: Mapping[str, Any]) -> list[str]:
    """Say where hosts are served, or why they are not; nothing where the gateway is switched off."""
    if daemon.get("gateway_url"):
        return [screen.printable(f"hosts: {daemon['gateway_url']}, or `moltis connect`")]
    if daemon.get("gateway_problem"):
        return [screen.printable(f"hosts: only `moltis connect`; {daemon['gateway_problem']}")]
    return []


def short_path(path: str) -> str:
    """Return the path with the home folder as `~`."""
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if home != "/" and path.startswith(home + os.sep) else path


def show_table(servers: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of running servers."""
    now = datetime.now(UTC)
    rows = [table_row(server, now) for server in servers]
    for line in render(HEADER, rows, width=screen.width(), shrink=STATUS_COLUMN, colour=screen.coloured()):
        screen.data(line)


def table_row(server: Mapping[str, Any], now: datetime) -> list[str | Cell]:
    """Return one server's cells."""
    status = phrases.status_cell(server, now)
    return [
        screen.one_line(str(server["name"])),
        str(server["transport"]),
        str(server["tool_count"]) if server["state"] in OFFERING else "-",
        Cell(screen.one_line(status.text), status.style),
        phrases.up_and_restarts(server, now),
        Cell(phrases.action(server), "cyan"),
    ]


def show_server(server: Mapping[str, Any], as_json: bool) -> int:
    """Print everything about one server; 1 when it is unhealthy."""
    if as_json:
        screen.data_json(server)
    else:
        for line in server_lines(server, datetime.now(UTC), screen.coloured()):
            screen.data(line)
    return ExitCode.FAILURE if phrases.is_unhealthy(server) else ExitCode.OK


def server_lines(server: Mapping[str, Any], now: datetime, colour: bool) -> list[str]:
    """Return one server as `key  value` lines; what is empty is left out."""
    status = phrases.status_cell(server, now)
    pairs: list[tuple[str, str, str]] = [
        ("name", str(server["name"]), "bold"),
        ("display name", server.get("display_name") or "", ""),
        ("status", status.text, status.style),
        ("action", phrases.action(server), "cyan"),
        ("transport", str(server["transport"]), ""),
        ("command", _command_words(server), ""),
        ("url", server.get("url") or "", ""),
        ("headers", ", ".join(server.get("header_names") or []), ""),
        ("proxy", server["proxy"] if server.get("proxy") not in (None, "none") else "", ""),
        ("env", ", ".join(server.get("env_names") or []), ""),
        ("pid", str(server.get("pid") or ""), ""),
        ("memory", phrases.memory(server.get("rss_bytes")), ""),
        ("up / restarts", phrases.up_and_restarts(server, now), ""),
        ("offers", _offers(server), ""),
        ("server", _server_info(server), ""),
        ("heartbeat", _heartbeat(server, now), ""),
        ("hosts", _hosts(server), ""),
        ("request timeout", f"{server.get('request_timeout_secs', 0):g}s", ""),
        ("login", server.get("auth_url") or "", "cyan"),
    ]
    shown = [(key, screen.one_line(text), style) for key, text, style in pairs if text]
    widest = max(len(key) for key, _, _ in shown)
    lines = [f"{key:{widest}}  {paint(text, style, colour)}" for key, text, style in shown]
    return lines + _item_lines(server, widest) + _error_lines(server, widest, now)


def _hosts(server: Mapping[str, Any]) -> str:
    """Return who is connected: name and version, and the access token by which it came."""
    told: Counter[str] = Counter()
    for host in server.get("hosts") or []:
        by = f" (token {host['token']})" if host.get("token") else ""
        told[f"{host['name']} {host['version']}{by}"] += 1
    return ", ".join(f"{count} times {host}" if count > 1 else host for host, count in told.items())


def _item_lines(server: Mapping[str, Any], widest: int) -> list[str]:
    items = server.get("unusable_items") or []
    told = [screen.one_line(f"{item['kind']} {item['name']}: {item['reason']}") for item in items]
    return [f"{'malformed' if index == 0 else '':{widest}}  {text}" for index, text in enumerate(told)]


def _command_words(server: Mapping[str, Any]) -> str:
    count = server.get("arg_count") or 0
    words = server.get("command") or ""
    return f"{words} ({count} argument{'s' if count != 1 else ''})" if words else ""


def _offers(server: Mapping[str, Any]) -> str:
    if server.get("state") not in OFFERING:
        return ""
    kinds = (("tool", "tool_count"), ("resource", "resource_count"), ("prompt", "prompt_count"))
    return ", ".join(f"{n} {kind}{'s' if n != 1 else ''}" for kind, key in kinds for n in [server.get(key) or 0])


def _server_info(server: Mapping[str, Any]) -> str:
    info = server.get("server_info") or {}
    words = " ".join(str(info[k]) for k in ("name", "version") if info.get(k))
    protocol = server.get("protocol_version")
    return f"{words} (MCP {protocol})" if protocol else words


def _heartbeat(server: Mapping[str, Any], now: datetime) -> str:
    at = phrases.instant(server.get("last_heartbeat_at"))
    if at is None:
        return ""
    latency = server.get("heartbeat_latency_ms")
    after = f", {latency:.1f} ms" if latency is not None else ""
    return f"{phrases.duration((now - at).total_seconds())} ago{after}"


def _error_lines(server: Mapping[str, Any], widest: int, now: datetime) -> list[str]:
    error = server.get("last_error")
    if not error:
        return []
    at = phrases.instant(error.get("at"))
    when = f" ({phrases.duration((now - at).total_seconds())} ago)" if at else ""
    lines = [f"{'last error':{widest}}  {screen.one_line(error['message'])}{when}"]
    if error.get("stdout"):
        lines.append(f"{'':{widest}}  {screen.one_line(error['stdout'])}")
    return lines + [f"{'':{widest}}  | {screen.indented(line)}" for line in error.get("stderr_tail") or []]


def show_not_running(ctx: click.Context, as_json: bool, message: str) -> int:
    """Print the servers that `moltis run` would start, read from moltis.toml as far as it can be read."""
    from moltis.cli.configured import read_servers

    path = link.paths(ctx).config
    configured = read_servers(Path(path))
    if as_json:
        servers = [{"name": s.name, "transport": s.transport, "enabled": s.enabled} for s in configured.servers]
        document = {"running": False, "daemon": None, "config_path": str(path), "servers": servers}
        screen.data_json(document)
    else:
        screen.data(screen.printable(f"moltis {__version__} - not running - {short_path(str(path))}"))
        rows: list[list[str | Cell]] = [
            [s.name, s.transport, "-", Cell("not running" if s.enabled else State.DISABLED.value, "dim"), "-"]
            for s in configured.servers
        ]
        if rows:
            screen.data()
            lines = render(HEADER[:-1], rows, width=screen.width(), shrink=STATUS_COLUMN, colour=screen.coloured())
            screen.data("\n".join(lines))
    if configured.problem:
        screen.talk(f"moltis: {screen.one_line(configured.problem)}")
    else:
        screen.talk(f"moltis: {screen.one_line(message)}")
    screen.talk(f"hint: {configured.hint or 'moltis run'}")
    return ExitCode.DAEMON_NOT_RUNNING
