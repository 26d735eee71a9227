"""What sharing and on demand save in memory, against each host starting its own servers. Pure, but for the printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moltis.cli import phrases, screen
from moltis.cli.table import Cell, render
from moltis.errors import ExitCode

HEADER = ("NAME", "HOSTS", "EACH ITS OWN", "NOW", "SAVED")


def savings(daemon: Mapping[str, Any], servers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the account, in bytes: a row for each local server whose memory is known, and the sum with ours.

    own: what its hosts that are connected would hold if each had started one: as many times what one holds, or of
    one that is idle what it held when it was last stopped.
    """
    rows = []
    for server in servers:
        now = server.get("rss_bytes")
        one = now if now is not None else server.get("rss_idle_bytes")
        if one is None:
            continue
        hosts = len(server.get("hosts") or [])
        row = {"name": server["name"], "hosts": hosts, "own_bytes": hosts * one, "rss_bytes": now or 0}
        rows.append({**row, "saved_bytes": row["own_bytes"] - row["rss_bytes"]})
    own, now = sum(row["own_bytes"] for row in rows), sum(row["rss_bytes"] for row in rows)
    held = daemon.get("rss_bytes") or 0
    total = {"own_bytes": own, "rss_bytes": now + held, "daemon_rss_bytes": held, "saved_bytes": own - now - held}
    return {"servers": rows, **total}


def show_savings(daemon: Mapping[str, Any], servers: Sequence[Mapping[str, Any]], as_json: bool) -> int:
    """Print the account."""
    found = savings(daemon, servers)
    if as_json:
        screen.data_json(found)
        return ExitCode.OK
    rows: list[list[str | Cell]] = [
        [screen.one_line(str(row["name"])), str(row["hosts"]), *_sums(row)] for row in found["servers"]
    ]
    rows.append(["moltis itself", "", "", phrases.memory(found["daemon_rss_bytes"]), ""])
    rows.append(["together", "", *_sums(found)])
    for line in render(HEADER, rows, width=screen.width(), shrink=0, colour=screen.coloured()):
        screen.data(line)
    if not found["servers"]:
        screen.talk("moltis: no local server runs, or has run and is idle")
    screen.talk("resident memory (RSS) of process trees; hosts are those that are connected now")
    return ExitCode.OK


def _sums(row: Mapping[str, Any]) -> list[str]:
    return [phrases.memory(row[key]) for key in ("own_bytes", "rss_bytes", "saved_bytes")]
