"""The endpoint for hosts, against the gateways people use and against the bare server, all in one interleaved run.

All run at once over the same two servers; a round asks each in turn, the order reversed every other round, and every
ratio is formed within a round. The client is one process (gateway_client.py) with raw HTTP and no SDK.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from figure import Figure, median_ratio, percentile
from gateways import PEERS, Running, ours, peer
from workbench import HERE, cpu_seconds, fast_server, resident_bytes

OURS, DIRECT, PROXY = "moltis", "direct", "mcp-proxy"
MB = 1_000_000
MANY = 50

Samples = dict[str, list[float]]


class Client:
    """The measuring client, and what it can call."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "gateway_client.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def order(self, **order: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"{order}: {answer['error']}")
        return answer

    def opened(self, name: str, how: dict[str, Any], within_secs: float = 90.0) -> None:
        """Open a target as soon as it answers a call."""
        deadline = time.monotonic() + within_secs
        while True:
            try:
                self.order(open=name, how=how)
                self.order(run=name, callers=1, calls=1, bytes=0)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


@contextlib.contextmanager
def measuring() -> Iterator[Client]:
    client = Client()
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def all_gateways(client: Client) -> Iterator[dict[str, Running]]:
    """Run every gateway over servers a and b; targets are called NAME/a and NAME/b, and the bare server `direct/b`."""
    servers = {"a": fast_server(), "b": fast_server()}
    with contextlib.ExitStack() as stack:
        running = {OURS: stack.enter_context(ours(servers))}
        for name in PEERS:
            running[name] = stack.enter_context(peer(name, servers))
        client.opened(f"{DIRECT}/b", {"kind": "stdio", "argv": fast_server()})
        for name, gateway in running.items():
            for server in servers:
                client.opened(f"{name}/{server}", gateway.how(server))
        yield running


def figures(scale: float) -> list[Figure]:
    with measuring() as client:
        with all_gateways(client) as running:
            found = [
                *calls(client, running, max(3, int(7 * scale))),
                *mixed(client, running, max(2, int(5 * scale))),
            ]
        return [*found, *listing(max(2, int(3 * scale))), *memory()]


def rounds(count: int, names: list[str], one: Callable[[str], None]) -> None:
    for n in range(count):
        for name in names if n % 2 == 0 else reversed(names):
            one(name)


def best(samples: Samples, *, highest: bool = False) -> str:
    peers = [name for name in samples if name not in (OURS, DIRECT)]
    return (max if highest else min)(peers, key=lambda name: statistics.median(samples[name]))


def detail(samples: Samples, times: float, unit: str) -> str:
    return ", ".join(f"{name} {statistics.median(values) * times:.3g}" for name, values in samples.items()) + f" {unit}"


def calls(client: Client, running: dict[str, Running], count: int) -> list[Figure]:
    """Take latency, throughput and CPU time of calls."""
    names = [DIRECT, *running]
    p50: dict[int, Samples] = {size: {name: [] for name in names} for size in (0, 100_000, MB)}
    rate: Samples = {name: [] for name in running}
    cpu: Samples = {name: [] for name in running}
    pids = {name: gateway.pids() for name, gateway in running.items()}

    def one(name: str) -> None:
        target = f"{name}/b"
        # First, so that whatever is measured next begins with the same processors: busy ones, whoever came before.
        answer = client.order(run=target, callers=64, calls=64 * 30, bytes=0)
        if name != DIRECT:
            rate[name].append(len(answer["seconds"]) / answer["wall"])
        for size, calls in ((0, 800), (100_000, 100), (MB, 25)):
            before = cpu_seconds(pids[name]) if name in pids else 0.0
            seconds = client.order(run=target, callers=1, calls=calls, bytes=size)["seconds"]
            p50[size][name].append(statistics.median(seconds))
            if name in pids and size == 0:
                cpu[name].append((cpu_seconds(pids[name]) - before) / calls)

    rounds(1, names, one)
    for samples in (*p50.values(), rate, cpu):
        for values in samples.values():
            values.clear()
    rounds(count, names, one)
    small, hundred, mega = p50.values()
    others = best(rate, highest=True)
    return [
        Figure(
            name="100 B call through the gateway, p50, against bare stdio",
            value=median_ratio(small[OURS], small[DIRECT]), limit=10.0, detail=detail(small, 1e6, "us"), samples=small,
        ),
        Figure(
            name="the same, against mcp-proxy", value=median_ratio(small[OURS], small[PROXY]), limit=0.45,
            detail=f"best peer: {best(small)}, {median_ratio(small[OURS], small[best(small)]):.2f} x of it",
        ),
        Figure(
            name="CPU time of the daemon a call, against mcp-proxy", value=median_ratio(cpu[OURS], cpu[PROXY]),
            limit=0.35, detail=detail(cpu, 1e6, "us"), samples=cpu,
        ),
        Figure(
            name="64 callers, calls/s, against mcp-proxy", value=median_ratio(rate[OURS], rate[PROXY]), limit=4.0,
            at_least=True, detail=detail(rate, 1, "/s"), samples=rate,
        ),
        Figure(
            name="64 callers, calls/s, against the best peer", value=median_ratio(rate[OURS], rate[others]), limit=2.0,
            at_least=True, detail=others,
        ),
        Figure(
            name="100 KB result, p50, against mcp-proxy", value=median_ratio(hundred[OURS], hundred[PROXY]), limit=0.5,
            detail=detail(hundred, 1e3, "ms"), samples=hundred,
        ),
        Figure(
            name="1 MB result, p50, against mcp-proxy", value=median_ratio(mega[OURS], mega[PROXY]), limit=0.65,
            detail=detail(mega, 1e3, "ms"), samples=mega,
        ),
    ]  # fmt: skip


def mixed(client: Client, running: dict[str, Running], count: int) -> list[Figure]:
    """Take small calls of b while a serves 1 MB to four hosts."""
    p99: Samples = {name: [] for name in running if name != "supergateway"}

    def one(name: str) -> None:
        found = client.order(mix=f"{name}/b", beside=f"{name}/a", callers=4, bytes=MB, secs=2.0)["seconds"]
        p99[name].append(percentile(found, 99))

    rounds(count, list(p99), one)
    other = best(p99)
    return [
        Figure(
            name="calls of b while a serves 1 MB to four, p99, best peer",
            value=median_ratio(p99[OURS], p99[other]), limit=1.0, detail=detail(p99, 1e3, "ms"), samples=p99,
        )
    ]  # fmt: skip


def listing(count: int) -> list[Figure]:
    """Take the time from launch until the tools of fifty servers are listed at the endpoint."""
    servers = {f"s{n:02}": fast_server() for n in range(MANY)}
    took: Samples = {OURS: [], PROXY: [], "mcp-hub": []}

    def one(name: str) -> None:
        with measuring() as client:
            began = time.perf_counter()
            with ours(servers) if name == OURS else peer(name, servers) as gateway:
                if name == OURS:
                    wait_listed(client, {**gateway.how("s00"), "path": "/mcp"})
                else:  # mcp-proxy listens when all are connected, mcp-hub connects to all at once
                    for server in servers if name == "mcp-hub" else ("s00", f"s{MANY - 1}"):
                        opened_quickly(client, server, gateway.how(server))
                took[name].append(time.perf_counter() - began)

    rounds(count, list(took), one)
    return [
        Figure(
            name="launch to 50 servers listed at the endpoint, mcp-proxy", value=median_ratio(took[OURS], took[PROXY]),
            limit=1.0, aim=0.62, detail=detail(took, 1e3, "ms"), samples=took,
        )
    ]  # fmt: skip


def opened_quickly(client: Client, server: str, how: dict[str, Any]) -> None:
    """Wait until a server can be called, which says as much as that it is listed."""
    while True:
        try:
            client.order(open=server, how=how)
            client.order(run=server, callers=1, calls=1, bytes=0)
            return
        except RuntimeError:
            time.sleep(0.01)


def wait_listed(client: Client, how: dict[str, Any]) -> None:
    while True:
        with contextlib.suppress(RuntimeError):
            client.order(open="all", how=how)
            if sum(tool.endswith("echo") for tool in client.order(tools="all")["tools"]) == MANY:
                return
        time.sleep(0.01)


def memory() -> list[Figure]:
    """Take the resident size with fifty servers, after 5 000 calls and 200 results of 1 MB, and what half added."""
    servers = {f"s{n:02}": fast_server() for n in range(MANY)}
    size: Samples = {}
    for name in (OURS, PROXY):
        with measuring() as client, ours(servers) if name == OURS else peer(name, servers) as gateway:
            for server in servers:
                opened_quickly(client, server, gateway.how(server))
            size[name] = [float(resident_bytes(gateway.pids()))]
            for _ in range(2):
                client.order(run="s00", callers=8, calls=2500, bytes=0)
                client.order(run="s01", callers=4, calls=100, bytes=MB)
                size[name].append(float(resident_bytes(gateway.pids())))
    return [
        Figure(
            name="resident size, 50 servers, after calls, against mcp-proxy", value=size[OURS][-1] / size[PROXY][-1],
            limit=1.4, aim=1.0, samples=size,
            detail=", ".join(f"{n} {' -> '.join(f'{v / MB:.0f}' for v in values)} MB" for n, values in size.items()),
        ),
        Figure(
            name="growth of the second half of those calls", unit="MB",
            value=(size[OURS][-1] - size[OURS][-2]) / MB, limit=8.0,
        ),
    ]  # fmt: skip
