"""A server that floods the daemon with short lines has its turns, and its neighbour's calls have theirs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
from harness import PYTHON, Daemon, a_daemon

FLOODER = r"""
import json, os, sys, threading, time
def flood(fd, line):
    time.sleep(0.2)
    data = line * (100_000 // len(line))
    while True:
        os.write(fd, data)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    info = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "f", "version": "1"}}
    result = {"initialize": info, "tools/list": {"tools": []}, "ping": {}}.get(asked["method"])
    answer = {"error": {"code": -32601, "message": "no"}} if result is None else {"result": result}
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}).encode() + b"\n")
    if asked["method"] == "tools/list":
        threading.Thread(target=flood, args=(int(sys.argv[1]), sys.argv[2].encode()), daemon=True).start()
"""

NOTIFICATION = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}\n'


@pytest.fixture(scope="module")
def calm() -> Iterator[Daemon]:
    """The daemon of a calm server, which has one neighbour after the other."""
    with a_daemon() as daemon:
        daemon.write({"calm": daemon.evil()})
        daemon.start().wait_all("ready")
        yield daemon


@pytest.mark.alone
@pytest.mark.parametrize(
    ("fd", "line"),
    [(1, "a\n"), (1, "\n"), (1, NOTIFICATION), (2, "\n"), (2, "a\n")],
    ids=["junk", "blank lines", "notifications", "blank stderr", "stderr"],
)
def test_a_flood_of_short_lines_does_not_hold_up_a_neighbours_calls(calm: Daemon, fd: int, line: str) -> None:
    calm.rpc("mcp.add", name="flood", **calm.real(PYTHON, "-I", "-S", "-c", FLOODER, str(fd), line))
    try:
        calm.wait_for("flood", "ready")
        time.sleep(0.5)  # by now it floods
        times: list[float] = []
        with calm.connect() as client:
            for _ in range(100):
                began = time.monotonic()
                client.call("mcp.call", server="calm", tool="echo", arguments={"message": "x"})
                times.append(time.monotonic() - began)
                time.sleep(0.01)
        assert statistics.median(times) < 0.05
        assert statistics.quantiles(times, n=20)[18] < 0.25
        assert calm.status("calm")["restarts"] == 0
        assert calm.status("flood")["state"] == "ready", "it floods to the end"
    finally:
        calm.rpc("mcp.remove", name="flood")
    calm.assert_nothing_left(5.0, but=[calm.status("calm")["pid"]])
