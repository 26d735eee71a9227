"""What keeping every process accounted for costs, and whether it works: `python benchmarks/containment.py`.

Prints, as ratios to a plain `subprocess.Popen`, the time to start N servers at once through the warden and through the
honest alternative, one shim process per server (the same interpreter and flags, a lifeline, a subreaper, a sweep); the
memory that each way costs; and what is left 2 s after `kill -9` of the process that started them all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

import anyio

from moltis.transport.containment import Warden

SHIM = """
import ctypes, os, select, signal, sys
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)
child = os.fork()
if child == 0:
    os.setsid()
    libc.prctl(1, 9, 0, 0, 0)
    os.execvp(sys.argv[2], sys.argv[2:])
wake, wake_in = os.pipe()
os.set_blocking(wake_in, False)
signal.set_wakeup_fd(wake_in)
signal.signal(signal.SIGCHLD, lambda *_: None)
select.select([int(sys.argv[1]), wake], [], [])
me, left = os.getpid(), True
while left:
    for pid in map(int, open(f"/proc/{me}/task/{me}/children").read().split()):
        os.kill(pid, 9)
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        left = False
"""
TREE = "setsid sleep 300 {mark} & echo; exec sleep 300 {mark}"
"""A server with a grandchild that has left its group; `{mark}` is 0.<number>, which sleep adds to its time."""


def memory(pids: list[int]) -> dict[str, int]:
    """Give RSS, PSS and USS of some processes together, in KiB."""
    total = {"rss": 0, "pss": 0, "uss": 0}
    keys = {"Rss:": "rss", "Pss:": "pss", "Private_Clean:": "uss", "Private_Dirty:": "uss"}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in keys:
                total[keys[name]] += int(value.split()[0])
    return total


def marked(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


async def by_warden(argv: list[str], servers: int) -> tuple[float, dict[str, int]]:
    warden = Warden()
    warden.start()
    with open(os.devnull, "r+b") as null:
        fd = null.fileno()
        await warden.spawn(["true"], dict(os.environ), None, fd, fd, fd)
        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(servers):
                tasks.start_soon(warden.spawn, argv, dict(os.environ), None, fd, fd, fd)
        took = time.perf_counter() - began
    assert warden.pid is not None
    cost = memory([warden.pid])
    await warden.aclose()
    return took, cost


def by_popen(argv: list[str], servers: int, mark: str) -> tuple[float, dict[str, int]]:
    began = time.perf_counter()
    processes = [subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True) for _ in range(servers)]
    took = time.perf_counter() - began
    end(processes, mark)
    return took, memory([])


def by_shims(argv: list[str], servers: int, mark: str) -> tuple[float, dict[str, int]]:
    lifeline, ours = os.pipe()
    began = time.perf_counter()
    command = [sys.executable, "-I", "-S", "-c", SHIM, str(lifeline), *argv]
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lifeline]) for _ in range(servers)]
    while len(marked(mark)) < 2 * servers:  # the command line of a shim has the mark too
        time.sleep(0.002)
    took = time.perf_counter() - began
    cost = memory([process.pid for process in processes])
    os.close(ours)
    end(processes, mark)
    os.close(lifeline)
    return took, cost


def end(processes: list[subprocess.Popen[bytes]], mark: str) -> None:
    for process in processes:
        process.kill()
        process.wait()
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def measure(servers: int, rounds: int) -> dict[str, object]:
    times: dict[str, list[float]] = {"popen": [], "warden": [], "shims": []}
    costs: dict[str, dict[str, int]] = {}
    for _ in range(rounds):  # interleaved, so that what else the machine does falls on all alike
        mark = f"0.{uuid.uuid4().int % 10**17:017d}"
        argv = ["sleep", "300", mark]
        for name, way in (("popen", by_popen), ("shims", by_shims)):
            took, costs[name] = way(argv, servers, mark)
            times[name].append(took)
        took, costs["warden"] = anyio.run(by_warden, argv, servers, backend_options={"use_uvloop": True})
        times["warden"].append(took)
    base = statistics.median(times["popen"])
    medians = {name: statistics.median(took) for name, took in times.items()}
    return {
        "servers": servers,
        "start_ms_per_server": {name: round(1000 * took / servers, 2) for name, took in medians.items()},
        "start_ratio_to_popen": {name: round(took / base, 2) for name, took in medians.items()},
        "memory_kib": costs,
    }


async def hold(mark: str, servers: int) -> None:
    """Start trees and wait to be killed."""
    warden = Warden()
    read_fd, write_fd = os.pipe()
    with open(os.devnull, "r+b") as null:
        for _ in range(servers):
            argv = ["sh", "-c", TREE.format(mark=mark)]
            await warden.spawn(argv, dict(os.environ), None, null.fileno(), write_fd, null.fileno())
    for _ in range(servers):
        os.read(read_fd, 1)
    print(warden.pid, flush=True)
    await anyio.sleep_forever()


def survivors(victim: str, servers: int) -> dict[str, object]:
    """Kill the daemon, or the warden, with -9 and count what is left."""
    mark = f"0.{uuid.uuid4().int % 10**17:017d}"
    argv = [sys.executable, __file__, "--hold", mark, "--servers", str(servers)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        warden = int(daemon.stdout.readline())
        before = len([p for p in marked(mark) if p not in (daemon.pid, warden)])
        began = time.monotonic()
        os.kill(daemon.pid if victim == "daemon" else warden, signal.SIGKILL)
        while (left := [p for p in marked(mark) if p != daemon.pid]) and time.monotonic() < began + 2:
            time.sleep(0.01)
        took = time.monotonic() - began
        daemon.kill()
    return {"processes": before, "survivors_after_2_s": len(left), "gone_after_secs": round(took, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold:
        anyio.run(hold, given.hold, given.servers)
    result = measure(given.servers, given.rounds)
    result["kill_9"] = {victim: survivors(victim, given.servers) for victim in ("daemon", "warden")}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
