"""One of five servers never answers `initialize`: when are the other four ready?"""

from __future__ import annotations

import time

from figure import Figure, median_ratio, milliseconds
from workbench import Argv, Daemon, fast_server, rounds


def ready_after(servers: dict[str, Argv]) -> float:
    """Give the seconds until four servers are ready."""
    daemon = Daemon(servers)
    began = time.perf_counter()
    try:
        daemon.start()
        daemon.wait_ready(4)
        return time.perf_counter() - began
    finally:
        daemon.stop()


def figures(scale: float) -> list[Figure]:
    good = {f"s{n}": fast_server() for n in range(4)}
    middle = {"s0": good["s0"], "s1": good["s1"], "hangs": fast_server("--hang"), "s2": good["s2"], "s3": good["s3"]}
    without: list[float] = []
    beside: list[float] = []
    count = max(5, int(21 * scale))
    rounds(count, lambda: without.append(ready_after(good)), lambda: beside.append(ready_after(middle)))
    return [
        Figure(
            name="others ready beside a hanging server",
            value=median_ratio(beside, without),
            limit=1.1,
            detail=f"{milliseconds(beside)} / {milliseconds(without)}",
            samples={"beside_secs": beside, "without_secs": without},
        )
    ]
