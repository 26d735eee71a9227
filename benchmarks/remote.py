"""A tool call through a remote server: `mcp.call` over the control socket against the bare SDK client, same server.

Both go over HTTP on loopback and neither logs in. 100 bytes one at a time, then results of 1 MB.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from calls import Client
from figure import Figure, median_ratio
from workbench import HERE, cpu_seconds, own_processes, rounds, running

MEGABYTE = 1_000_000


@contextlib.contextmanager
def http_server() -> Iterator[str]:
    """Give the URL of a running server."""
    argv = [sys.executable, "-E", str(HERE / "fast_http_server.py")]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.terminate()


def figures(scale: float) -> list[Figure]:
    with http_server() as url, running({"s": url}) as daemon:
        ours, sdk = Client("socket_client.py", str(daemon.socket)), Client("sdk_client.py", url)
        try:
            count, own = max(3, int(9 * scale)), own_processes(daemon.pid)
            return [
                *compare("remote call, 100 B echo, p50", 1.5, ours, sdk, own, count, 1000, None),
                *compare("remote call, 1 MB result, p50", 1.3, ours, sdk, own, count, 60, MEGABYTE),
            ]
        finally:
            ours.close()
            sdk.close()


def compare(
    name: str, limit: float, ours: Client, sdk: Client, own: list[int], count: int, calls: int, big: int | None
) -> list[Figure]:
    """Compare medians of one caller's calls."""
    p50: dict[str, list[float]] = {"moltis": [], "sdk": []}
    cpu: list[float] = []

    def of_ours() -> None:
        before = cpu_seconds(own)
        p50["moltis"].append(statistics.median(ours.run(1, calls, big)[0]))
        cpu.append((cpu_seconds(own) - before) / calls * 1e6)

    def of_the_sdk() -> None:
        p50["sdk"].append(statistics.median(sdk.run(1, calls, big)[0]))

    for client in (ours, sdk):
        client.run(1, max(10, calls // 10), big)
    rounds(count, of_ours, of_the_sdk)
    figure = Figure(
        name=f"{name}, against the SDK client",
        value=median_ratio(p50["moltis"], p50["sdk"]),
        limit=limit,
        detail=f"{statistics.median(p50['moltis']) * 1e6:.0f} / {statistics.median(p50['sdk']) * 1e6:.0f} us",
        samples={f"{k}_secs": v for k, v in p50.items()},
    )
    return [figure, Figure(name="  CPU time of the daemon per call", value=statistics.median(cpu), unit="us")]
