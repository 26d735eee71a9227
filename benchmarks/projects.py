"""What projects cost: a call and a list of a project beside those of all servers, in turns, and memory of each project.

200 projects over 50 servers, without a cap, so that each of them lists what /mcp lists and 50 tools of its own names.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from figure import Figure, median_ratio
from workbench import Argv, Daemon, Line, fast_server, own_processes, resident_bytes, rounds

SERVERS, PROJECTS = 50, 200
ROUNDS, CALLS, LISTS = 15, 300, 40
SETTLE_SECS = 2.0
KIB = 1024
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
CALL = {"name": "s7__echo", "arguments": {"message": "x" * 100}}


def figures(scale: float) -> list[Figure]:
    with serving() as daemon, contextlib.ExitStack() as stack:
        time.sleep(SETTLE_SECS)
        everything = stack.enter_context(host(daemon))
        one = stack.enter_context(host(daemon, project="p0"))
        lines, count = {"/mcp": everything, "/mcp/p0": one}, max(3, int(ROUNDS * scale))
        calls = taken_in_turns(lines, count, "tools/call", CALL, CALLS)
        lists = taken_in_turns(lines, count, "tools/list", {}, LISTS)
        time.sleep(SETTLE_SECS)
        before = resident_bytes(own_processes(daemon.pid))
        for n in range(1, PROJECTS):
            with host(daemon, project=f"p{n}") as line:
                line.call("tools/list")
        time.sleep(SETTLE_SECS)
        each = (resident_bytes(own_processes(daemon.pid)) - before) / (PROJECTS - 1) / KIB
    return [
        ratio("100 B call at /mcp/PROJECT, p50, against /mcp", calls, 1.05),
        ratio(f"list at /mcp/PROJECT, {SERVERS} servers, p50, against /mcp", lists, 1.5),
        Figure(name=f"resident size of a project, {PROJECTS} listed", value=each, unit="KiB", limit=100.0),
    ]


def taken_in_turns(
    lines: dict[str, Line], count: int, method: str, params: dict[str, Any], times: int
) -> dict[str, list[float]]:
    """Return the median of so many requests, for each of `count` rounds of each host."""
    found: dict[str, list[float]] = {path: [] for path in lines}

    def take(path: str) -> None:
        found[path].append(p50(lines[path], method, params, times))

    rounds(count, partial(take, "/mcp"), partial(take, "/mcp/p0"))
    return found


def ratio(name: str, samples: dict[str, list[float]], limit: float) -> Figure:
    detail = ", ".join(f"{path} {statistics.median(values) * 1e6:.0f} us" for path, values in samples.items())
    value = median_ratio(samples["/mcp/p0"], samples["/mcp"])
    return Figure(name=name, value=value, limit=limit, detail=detail, samples=samples)


@contextlib.contextmanager
def serving() -> Iterator[Daemon]:
    servers: dict[str, Argv | str] = {f"s{n}": fast_server() for n in range(SERVERS)}
    daemon = Daemon(servers, {"max_servers_per_project": 0})
    with daemon.config.open("a") as config:
        for n in range(PROJECTS):
            folder = daemon.folder / f"p{n}"
            folder.mkdir()
            config.write(f'[projects.p{n}]\npath = "{folder}"\n')
    try:
        daemon.start()
        daemon.wait_ready(SERVERS)
        yield daemon
    finally:
        daemon.stop()


@contextlib.contextmanager
def host(daemon: Daemon, **wanted: str) -> Iterator[Line]:
    """Be a host over the control socket, as `moltis connect` is one."""
    line = daemon.connect()
    try:
        line.call("mcp.connect", **wanted)
        line.call("initialize", **HELLO)
        yield line
    finally:
        line.close()


def p50(line: Line, method: str, params: dict[str, Any], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        line.call(method, **params)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
