"""Fifty fast servers, from launch to all ready, against a raw parallel spawn-and-initialize of the same fifty."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time

from figure import Figure, median_ratio, milliseconds
from workbench import Argv, Daemon, fast_server, rounds

COUNT = 50
INITIALIZE = (
    json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "raw", "version": "1"},
            },
        }
    ).encode()
    + b"\n"
)


def raw_start(servers: list[Argv]) -> float:
    """Give the seconds until all have answered `initialize`, with nothing in between but pipes."""
    began = time.perf_counter()
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) for argv in servers]
    with selectors.DefaultSelector() as selector:
        for process in processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(INITIALIZE)
            selector.register(process.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if os.read(key.fd, 65536).endswith(b"\n"):
                    selector.unregister(key.fileobj)
    took = time.perf_counter() - began
    for process in processes:
        process.kill()
        process.communicate()
    return took


def daemon_start(servers: list[Argv]) -> float:
    """Give the seconds from starting `moltis run` until all are ready."""
    daemon = Daemon({f"s{n}": argv for n, argv in enumerate(servers)})
    began = time.perf_counter()
    try:
        daemon.start()
        daemon.wait_ready(len(servers))
        return time.perf_counter() - began
    finally:
        daemon.stop()


def figures(scale: float) -> list[Figure]:
    servers = [fast_server() for _ in range(COUNT)]
    raw: list[float] = []
    ours: list[float] = []
    rounds(max(3, int(7 * scale)), lambda: raw.append(raw_start(servers)), lambda: ours.append(daemon_start(servers)))
    return [
        Figure(
            name=f"launch to {COUNT} ready, against raw spawns",
            value=median_ratio(ours, raw),
            limit=2.9,
            aim=1.8,
            detail=f"{milliseconds(ours)} / {milliseconds(raw)}",
            samples={"moltis_secs": ours, "raw_secs": raw},
        )
    ]
