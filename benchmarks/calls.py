"""A tool call of 100 bytes: `mcp.call` over the control socket against the bare SDK client on the same server.

Both clients are processes of their own that take orders on stdin (`sdk_client.py`, `socket_client.py`), so that neither
shares its CPU with this one. One at a time gives the latency, 64 at once the throughput.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from figure import Figure, median_ratio, percentile
from workbench import HERE, cpu_seconds, fast_server, own_processes, rounds, running

CALLERS = 64


class Client:
    """A client process."""

    def __init__(self, script: str, argument: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def run(self, callers: int, calls: int, big: int | None = None) -> tuple[list[float], float]:
        """Give the seconds of each call, and of all together. `big`: bytes of each result."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"callers": callers, "calls": calls, "big": big}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        return answer["seconds"], answer["wall"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


def figures(scale: float) -> list[Figure]:
    with running({"s": fast_server()}) as daemon:
        ours, sdk = Client("socket_client.py", str(daemon.socket)), Client("sdk_client.py", json.dumps(fast_server()))
        try:
            one = latency(ours, sdk, max(3, int(9 * scale)), own_processes(daemon.pid))
            many = throughput(ours, sdk, max(3, int(9 * scale)))
        finally:
            ours.close()
            sdk.close()
    return [*one, many]


def latency(ours: Client, sdk: Client, count: int, daemon: list[int]) -> list[Figure]:
    """Compare medians of one caller's calls."""
    p50: dict[str, list[float]] = {"moltis": [], "sdk": []}
    p99: list[float] = []
    cpu: list[float] = []

    def of_ours() -> None:
        before = cpu_seconds(daemon)
        seconds, _ = ours.run(1, 2000)
        cpu.append((cpu_seconds(daemon) - before) / len(seconds) * 1e6)
        p50["moltis"].append(statistics.median(seconds))
        p99.append(percentile(seconds, 99))

    def of_the_sdk() -> None:
        p50["sdk"].append(statistics.median(sdk.run(1, 2000)[0]))

    for client in (ours, sdk):
        client.run(1, 300)
    rounds(count, of_ours, of_the_sdk)
    figure = Figure(
        name="mcp.call, 100 B echo, p50, against the SDK client",
        value=median_ratio(p50["moltis"], p50["sdk"]),
        limit=2.0,
        aim=1.0,
        detail=f"{statistics.median(p50['moltis']) * 1e6:.0f} / {statistics.median(p50['sdk']) * 1e6:.0f} us, "
        f"p99 {statistics.median(p99) * 1e6:.0f} us",
        samples={f"{k}_secs": v for k, v in p50.items()},
    )
    spent = Figure(name="  CPU time of the daemon per call", value=statistics.median(cpu), unit="us")
    return [figure, spent]


def throughput(ours: Client, sdk: Client, count: int) -> Figure:
    """Compare calls per second of 64 callers."""
    rate: dict[str, list[float]] = {"moltis": [], "sdk": []}

    def measure(client: Client, name: str) -> None:
        seconds, wall = client.run(CALLERS, 6400)
        rate[name].append(len(seconds) / wall)

    for client in (ours, sdk):
        client.run(CALLERS, 640)
    rounds(count, lambda: measure(ours, "moltis"), lambda: measure(sdk, "sdk"))
    return Figure(
        name=f"mcp.call, {CALLERS} callers, calls/s, against the SDK client",
        value=median_ratio(rate["moltis"], rate["sdk"]),
        limit=1.0,
        at_least=True,
        detail=f"{statistics.median(rate['moltis']):.0f} / {statistics.median(rate['sdk']):.0f} per second",
        samples={f"{k}_per_sec": v for k, v in rate.items()},
    )
