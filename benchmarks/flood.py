"""A neighbour writes 500 MB to stderr and one line of 64 MiB to stdout: who notices?"""

from __future__ import annotations

import select
import time

from figure import Figure, percentile
from workbench import Daemon, Line, fast_server, own_processes, resident_bytes, running

STDERR_MB = 500
LINE_MIB = 64
MIB = 1 << 20


class Watch:
    """Asks for a status and calls a tool of the calm server, over and over, and weighs the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.line = daemon.connect()
        self.pids = own_processes(daemon.pid)
        self.status_secs: list[float] = []
        self.call_secs: list[float] = []
        self.resident = 0

    def look(self) -> None:
        began = time.perf_counter()
        self.line.call("mcp.status", name="calm")
        between = time.perf_counter()
        self.line.call("mcp.call", server="calm", tool="echo", arguments={"message": "x" * 100})
        self.status_secs.append(between - began)
        self.call_secs.append(time.perf_counter() - between)
        if len(self.status_secs) % 10 == 0:
            self.resident = max(self.resident, resident_bytes(self.pids))
        time.sleep(0.002)


def answered(line: Line) -> bool:
    return bool(select.select([line.socket], [], [], 0)[0])


def figures(scale: float) -> list[Figure]:
    size = {"stderr_mb": max(50, int(STDERR_MB * min(1.0, scale))), "line_mib": LINE_MIB}
    with running({"calm": fast_server(), "noisy": fast_server()}) as daemon:
        quiet, loud = Watch(daemon), Watch(daemon)
        while len(quiet.status_secs) < 500:
            quiet.look()
        flooder = daemon.connect()
        began = time.perf_counter()
        flooder.send("mcp.call", {"server": "noisy", "tool": "flood", "arguments": size, "timeout_secs": 600})
        while not answered(flooder):
            loud.look()
        took = time.perf_counter() - began
        flooder.read()
        restarts = sum(s["restarts"] for s in loud.line.call("mcp.list"))
    return [
        Figure(
            name="mcp.status p99 beside a flood",
            value=percentile(loud.status_secs, 99) * 1e3,
            unit="ms",
            limit=50.0,
            detail=f"quiet {percentile(quiet.status_secs, 99) * 1e3:.2f} ms; {size['stderr_mb']} MB of stderr "
            f"and a line of {LINE_MIB} MiB in {took:.1f} s, asked {len(loud.status_secs)} times",
            samples={"status_secs": loud.status_secs},
        ),
        Figure(
            name="resident growth beside a flood",
            value=max(0, loud.resident - quiet.resident) / MIB,
            unit="MiB",
            limit=32.0,
            detail=f"{quiet.resident / MIB:.1f} to {loud.resident / MIB:.1f} MiB",
        ),
        Figure(
            name="restarts beside a flood",
            value=float(restarts),
            unit="",
            limit=0.0,
            detail=f"the neighbour's calls: p99 {percentile(loud.call_secs, 99) * 1e3:.2f} ms, "
            f"quiet {percentile(quiet.call_secs, 99) * 1e3:.2f} ms",
        ),
    ]
