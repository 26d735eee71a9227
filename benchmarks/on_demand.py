"""The first call of an idle server, against what starting the server by hand and asking it the same takes.

The server is one on the reference SDK, for its start is what real ones take. Where a start takes twenty milliseconds,
the daemon's own part shows: that is printed too, without a limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from figure import Figure, median_ratio, milliseconds
from launch import INITIALIZE
from workbench import HERE, Argv, Daemon, Line, fast_server, rounds

STATEFUL = HERE.parent / "tests" / "servers" / "stateful_server.py"
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


def ask(id: int, method: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode() + b"\n"


BASE = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "USER", "LANG", "TMPDIR")}
"""What a server gets of the daemon's environment."""


def by_hand(argv: Argv, call: dict[str, Any]) -> float:
    """Give the seconds from the spawn to the result of a call, with what any host asks before it."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=BASE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for sent in (INITIALIZE, INITIALIZED + ask(2, "tools/list", {}), ask(3, "tools/call", call)):
            process.stdin.write(sent)
            process.stdin.flush()
            if "error" in json.loads(process.stdout.readline()):
                raise RuntimeError("the server refused it")
        return time.perf_counter() - began
    finally:
        process.kill()
        process.communicate()


def first_call(line: Line, call: dict[str, Any]) -> float:
    """Give the seconds of a call of the server while it is idle."""
    while line.call("mcp.status", name="s")["state"] != "idle":
        time.sleep(0.05)
    began = time.perf_counter()
    line.call("mcp.call", server="s", tool=call["name"], arguments=call["arguments"])
    return time.perf_counter() - began


def measured(argv: Argv, call: dict[str, Any], count: int) -> tuple[list[float], list[float]]:
    daemon = Daemon({"s": argv}, each={"start": "on_demand", "idle_stop_secs": 0.2})
    ours: list[float] = []
    own: list[float] = []
    try:
        daemon.start()
        line = daemon.connect()
        rounds(count, lambda: own.append(by_hand(argv, call)), lambda: ours.append(first_call(line, call)))
        line.close()
    finally:
        daemon.stop()
    return ours, own


def figures(scale: float) -> list[Figure]:
    found = []
    for argv, call, what, limit in (
        ([sys.executable, str(STATEFUL)], {"name": "count", "arguments": {}}, "a server on the SDK", 1.1),
        (fast_server(), {"name": "echo", "arguments": {"text": "x"}}, "one that starts at once", None),
    ):
        ours, own = measured(argv, call, max(5, int(15 * scale)))
        found.append(
            Figure(
                name=f"first call of {what} while it is idle, against its own start and call",
                value=median_ratio(ours, own),
                limit=limit,
                detail=f"{milliseconds(ours)} / {milliseconds(own)}",
                samples={"moltis_secs": ours, "own_secs": own},
            )
        )
    return found
