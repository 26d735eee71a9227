"""Fifty ready servers and nothing to do: CPU time over thirty seconds, and memory beside mcp-proxy's."""

from __future__ import annotations

import contextlib
import statistics
import time

import peer
from figure import Figure
from workbench import Argv, cpu_seconds, fast_server, own_processes, resident_bytes, running

COUNT = 50
SETTLE_SECS = 3.0
WINDOW_SECS = 30.0
WINDOWS = 3
MIB = 1 << 20
NAMES = {"default": "with heartbeats every 30 s", "silent": "without", "mcp-proxy": "mcp-proxy"}


def figures(scale: float) -> list[Figure]:
    window = max(5.0, WINDOW_SECS * min(1.0, scale))
    servers: dict[str, Argv] = {f"s{n}": fast_server() for n in range(COUNT)}
    with contextlib.ExitStack() as stack:
        pids = {
            "default": own_processes(stack.enter_context(running(servers)).pid),
            "silent": own_processes(stack.enter_context(running(servers, {"heartbeat_interval_secs": 86400})).pid),
        }
        proxy = stack.enter_context(peer.proxy(servers))
        if proxy:
            pids["mcp-proxy"] = own_processes(proxy)
        time.sleep(SETTLE_SECS)
        spent: dict[str, list[float]] = {name: [] for name in pids}
        for _ in range(WINDOWS):
            before = {name: cpu_seconds(p) for name, p in pids.items()}
            time.sleep(window)
            for name, p in pids.items():
                spent[name].append((cpu_seconds(p) - before[name]) * WINDOW_SECS / window)
        resident = {name: resident_bytes(p) / MIB for name, p in pids.items()}
    return [
        Figure(
            name=f"idle CPU per 30 s, {COUNT} servers",
            value=statistics.median(spent["silent"]),
            unit="s",
            limit=0.03,
            aim=0.01,
            detail=", ".join(f"{NAMES[name]} {statistics.median(secs):.3f} s" for name, secs in spent.items()),
            samples={f"{name}_secs": secs for name, secs in spent.items()},
        ),
        Figure(
            name=f"resident size, {COUNT} servers, against mcp-proxy",
            value=resident["default"] / resident["mcp-proxy"] if proxy else None,
            limit=1.3,
            aim=1.0,
            detail=f"{resident['default']:.1f} MiB in {len(pids['default'])} processes / "
            + (f"{resident['mcp-proxy']:.1f} MiB" if proxy else f"none: {peer.HOW_TO_GET_IT}"),
        ),
    ]
