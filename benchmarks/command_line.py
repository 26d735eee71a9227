"""`moltis --version` and `moltis status` against `python -c pass`, the least a Python program can take."""

from __future__ import annotations

import os
import sys
import time

from figure import Figure, median_ratio, milliseconds
from workbench import Argv, Daemon, fast_server, moltis_command, running


def wall_seconds(argv: Argv, environ: dict[str, str]) -> float:
    """Give the seconds from spawn to exit; waited for without polling."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    began = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environ, file_actions=null)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{argv} ended with {os.waitstatus_to_exitcode(status)}")
    return took


def figures(scale: float) -> list[Figure]:
    with running({f"s{n}": fast_server() for n in range(5)}) as daemon:
        return compare(daemon, max(7, int(31 * scale)))


def compare(daemon: Daemon, count: int) -> list[Figure]:
    commands = {
        "pass": [sys.executable, "-c", "pass"],
        "--version": [moltis_command(), "--version"],
        "status": [moltis_command(), "status"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for n in range(count + 1):
        for name in commands if n % 2 else reversed(commands):
            took = wall_seconds(commands[name], daemon.environ)
            if n:  # the first round fills the caches of files and bytecode
                seconds[name].append(took)
    return [
        Figure(
            name=f"moltis {name}, against python -c pass",
            value=median_ratio(seconds[name], seconds["pass"]),
            limit=limit,
            detail=f"{milliseconds(seconds[name])} / {milliseconds(seconds['pass'])}",
            samples={"moltis_secs": seconds[name], "pass_secs": seconds["pass"]},
        )
        for name, limit in (("--version", 5.0), ("status", 8.0))
    ]
